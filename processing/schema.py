"""Columns of every data set that this folder writes: one schema for IQ, one for image-like data, one for CSI.

Values are physical (full scale of the converter, dB, metres); normalisation belongs to the saved processor alone.
"""

from datasets import Array3D, ClassLabel, Features, List, Value

COMMON_COLUMNS = {
    "recording": Value("string"),  # the file or simulated capture that this row was cut from
    "group": Value("string"),  # device, session, user, position ...: never on both sides of a split
    "split": Value("string"),
    "sampling_rate_hz": Value("float64"),  # 0 where it is not known
    "center_frequency_hz": Value("float64"),  # 0 where it is not known
    "start": Value("int64"),  # first sample (or column) of this window in its recording
    "parameters": Value("string"),  # simulation or capture parameters, JSON
    "source": Value("string"),  # provenance: file name or generator with its version
}


def target_columns(label_names=None, position_axes=None):
    """`label` (class index) where there are class names, `position` (metres, one value per axis) where there are axes."""
    columns = {}
    if label_names is not None:
        columns["label"] = ClassLabel(names=list(label_names))
    if position_axes is not None:
        columns["position"] = List(Value("float32"), length=len(position_axes))
    return columns


def iq_features(num_antennas, num_samples, label_names=None, position_axes=None):
    """Schema of an IQ set. Column `iq`: (num_antennas, num_samples, 2) float32, I then Q on the last axis."""
    iq = Array3D(shape=(num_antennas, num_samples, 2), dtype="float32")
    return Features({"iq": iq, **target_columns(label_names, position_axes), **COMMON_COLUMNS})


def csi_features(num_antennas, num_subcarriers, num_packets, label_names=None, position_axes=None):
    """Schema of a set of CSI. Column `csi`: (num_antennas, num_subcarriers, num_packets) float32, amplitude, or dB where
    `unit` says so; `sampling_rate_hz` is packets per second."""
    csi = Array3D(shape=(num_antennas, num_subcarriers, num_packets), dtype="float32")
    columns = {"csi": csi, "unit": Value("string"), **target_columns(label_names, position_axes)}
    return Features({**columns, **COMMON_COLUMNS})


def image_features(num_channels, height, width, label_names=None, position_axes=None, is_csi=False):
    """Schema of an image-like set. Column `image`: (num_channels, height, width) float32.

    Args:
        is_csi: with a column `unit`, "linear" or "db", so that nothing is converted to dB twice.
    """
    columns = {"image": Array3D(shape=(num_channels, height, width), dtype="float32")}
    columns |= {"unit": Value("string")} if is_csi else {}
    return Features({**columns, **target_columns(label_names, position_axes), **COMMON_COLUMNS})
