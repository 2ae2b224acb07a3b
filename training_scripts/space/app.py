"""The model in a browser: drop a recording, see what the model makes of it.

    python training_scripts/space/app.py --model FOLDER_OR_NAME --adapters FOLDER_OR_NAME ...

The environment variables MMWFM_MODEL and MMWFM_ADAPTERS (separated by commas) stand for the options. Without either:
`model_cards/mmwfm-small` of the repository, with the adapters that lie beside it.
"""

import argparse
import os
from html import escape
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: nothing is sent anywhere

import gradio as gr
import page
import plots
from inputs import Signal, read_examples, read_upload
from serving import Bank, Serving, find_adapters, fitting_adapters

from modeling_mmwfm.csi_captures_mmwfm import NEXMON_CHIPS
from modeling_mmwfm.recordings_mmwfm import DATATYPES

# A Space has the app at the top, the repository two folders below.
ROOT = [*Path(__file__).resolve().parents][:3][-1]
DEFAULT = ROOT / "model_cards" / "mmwfm-small"
MASK_RATIO = 0.7
# A font that gradio brings along: nothing is fetched. Its semi-bold lacks most letters, its bold does not.
FONTS = (gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
ACCEPTED = (
    "SigMF (.sigmf-meta and .sigmf-data together), .wav, .npy, .cu8, .cs8, .cs16, .cf32, .bin, or a capture of Wi-Fi CSI: "
    ".pcap (nexmon, with its chip below), .csv (esp32), .dat (intel, atheros)"
)
ARRAYS = [("as its type and shape say", ""), ("IQ", "iq"), ("image", "image"), ("CSI", "csi")]


def build(serving: Serving) -> gr.Blocks:
    """The page of a model."""
    examples, others = read_examples()
    bank = Bank(serving, others)

    def reconstruct(signal: Signal | None, mask_ratio: float) -> str:
        if signal is None:
            return ""
        found, note = serving.reconstruct(signal, mask_ratio)
        drawn = [
            page.reconstruction_note(name, parts) + (plots.plot_iq if name == "waveform" else plots.plot_image)(parts)
            for name, parts in found.items()
        ]
        return page.note(note) + "".join(drawn)

    def show(signal: Signal, mask_ratio: float):
        offset, beside = None, ""
        if signal.kind == "iq":
            samples, offset = plots.center(signal)
            beside = plots.plot_constellation(samples)
        elif signal.kind == "csi":
            beside = plots.plot_doppler(signal)
        return (
            signal,
            page.summary(signal, offset),
            plots.plot_waterfall(signal),
            gr.update(visible=bool(beside)),
            beside,
            reconstruct(signal, mask_ratio),
            page.neighbours(bank.nearest(signal)),
            page.predictions(serving.predict(signal)),
        )

    def upload(files, datatype, num_antennas, rate_hz, kind, chip, mask_ratio):
        if not files:
            raise gr.Error("expected a recording, found none", print_exception=False)
        try:
            signal = read_upload(files, datatype, int(num_antennas or 1), float(rate_hz or 0), kind, chip)
            return show(signal, mask_ratio)
        except ValueError as error:
            raise gr.Error(escape(str(error)), duration=None, print_exception=False) from error

    def pick(mask_ratio, event: gr.SelectData):
        return show(examples[event.index], mask_ratio)

    def start(mask_ratio):
        return show(examples[0], mask_ratio)

    kept = {"delete_cache": (3600, 3600)}  # what people drop is deleted after an hour
    with gr.Blocks(title="Multimodal wireless foundation model", analytics_enabled=False, **kept) as blocks:
        signal = gr.State(time_to_live=3600)
        gr.HTML(page.header(serving))
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320, elem_classes="side"):
                files = gr.File(label="Recording", file_count="multiple", height=130, elem_id="upload")
                gr.HTML(page.note(f"{ACCEPTED}. Archives and pickles are not opened."))
                with gr.Accordion("What a file does not say", open=False):
                    datatype = gr.Dropdown(["", *DATATYPES], value="", label="Datatype of a .bin")
                    num_antennas = gr.Number(1, label="Antennas, interleaved", precision=0, minimum=1)
                    rate_hz = gr.Number(None, label="Sampling rate, of CSI packet rate (Hz)", minimum=0)
                    kind = gr.Dropdown(ARRAYS, value="", label="Take a .npy for", elem_id="kind")
                    chip = gr.Dropdown(["", *NEXMON_CHIPS], value="", label="Chip of a nexmon .pcap", elem_id="chip")
                    again = gr.Button("Read again", size="sm")
                gallery = gr.Gallery(
                    [(plots.thumbnail(example), page.caption(example)) for example in examples],
                    label="Examples, simulated unless they name a source",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="examples",
                )
            with gr.Column(scale=3, min_width=480):
                with gr.Column(elem_classes="sheet"):
                    summary = gr.HTML(elem_id="summary")
                    with gr.Row():
                        with gr.Column(scale=2, min_width=320):
                            waterfall = gr.HTML(elem_id="waterfall")
                        with gr.Column(scale=1, min_width=200) as column:
                            beside = gr.HTML(elem_id="beside")
                with gr.Column(elem_classes="sheet"):
                    gr.HTML("<h3>Prediction of each adapter</h3>")
                    predictions = gr.HTML(elem_id="predictions")
                with gr.Column(elem_classes="sheet"):
                    gr.HTML("<h3>Nearest examples in embedding space</h3>")
                    neighbours = gr.HTML(elem_id="neighbours")
                with gr.Column(elem_classes="sheet"):
                    gr.HTML("<h3>Masked reconstruction</h3>")
                    ratio = gr.Slider(0.1, 0.9, MASK_RATIO, step=0.05, label="Mask ratio", elem_id="ratio")
                    reconstruction = gr.HTML(elem_id="reconstruction")
        outputs = [signal, summary, waterfall, column, beside, reconstruction, neighbours, predictions]
        recording = [files, datatype, num_antennas, rate_hz, kind, chip, ratio]
        # One at a time: the machine has few cores.
        one = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
        whole = {"outputs": outputs, "show_progress_on": summary, **one}
        blocks.load(start, ratio, **whole)
        files.upload(upload, recording, **whole)
        again.click(upload, recording, **whole)
        gallery.select(pick, ratio, **whole)
        ratio.change(
            reconstruct, [signal, ratio], reconstruction, trigger_mode="always_last", show_progress="minimal", **one
        )
    return blocks


def choose_model(model: str, adapters: list[str]) -> tuple[str, list[str]]:
    """What to load: as asked for, or what the repository has.

    Raises:
        ValueError: nothing was asked for and there is nothing.
    """
    if not model:
        if not (DEFAULT / "config.json").is_file():
            raise ValueError(f"expected --model, MMWFM_MODEL, or a model in {DEFAULT}, found none")
        model = str(DEFAULT)
        adapters = adapters or fitting_adapters(model)
    return model, find_adapters(adapters)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("MMWFM_MODEL", ""), help="folder or Hub name")
    named = [name.strip() for name in os.environ.get("MMWFM_ADAPTERS", "").split(",") if name.strip()]
    parser.add_argument("--adapters", nargs="*", default=named, help="adapters, or folders of adapters")
    parser.add_argument("--host", default=None, help="address to listen at")
    parser.add_argument("--port", type=int, default=None)
    options = parser.parse_args(arguments)
    try:
        model, adapters = choose_model(options.model, options.adapters)
        blocks = build(Serving(model, adapters))
    except ValueError as error:
        parser.exit(1, f"app.py: error: {error}\n")
    blocks.queue(max_size=20).launch(
        server_name=options.host,
        server_port=options.port,
        theme=gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=FONTS),
        css_paths=Path(__file__).parent / "style.css",
        footer_links=["settings"],
        max_file_size="256mb",
        state_session_capacity=200,  # of 2 MB
    )


if __name__ == "__main__":
    main()
