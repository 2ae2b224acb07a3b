"""Export a fine-tuned model or an encoder to ONNX.

    python training_scripts/export_onnx.py --model FOLDER --output FILE.onnx [--inputs iq image] [--quantize]

Batch, antennas and samples of IQ (`iq_values`) and height and width of images (`pixel_values`) are dynamic; the result
is `logits` (class scores, or metres), or the pooled `features` of an encoder without a head. Needs the packages
onnx, onnxscript and onnxruntime.
"""

from modeling_mmwfm.recipes_mmwfm import run_script

if __name__ == "__main__":
    try:
        from modeling_mmwfm.onnx_mmwfm import ExportArguments, export
    except ImportError as error:
        raise SystemExit(f"export_onnx.py: error: {error}") from error
    run_script(export, ExportArguments)
