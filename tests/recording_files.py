"""Write small recordings of the formats that have no writer at hand."""

import json
import struct

import h5py
import numpy as np

from processing.recordings import DATATYPES


def write_sigmf(folder, samples, datatype, num_channels=1, captures=None, annotations=(), data=None, **fields):
    """`samples`: (T, channels, 2) components."""
    data = samples.astype(DATATYPES[datatype]).tobytes() if data is None else data
    (folder / "a.b.sigmf-data").write_bytes(data)
    fields = {"core:datatype": datatype, "core:num_channels": num_channels, "core:version": "1.0.0", **fields}
    meta = {
        "global": fields,
        "captures": [{"core:sample_start": 0, "core:frequency": 915e6}] if captures is None else captures,
        "annotations": list(annotations),
    }
    path = folder / "a.b.sigmf-meta"
    path.write_text(json.dumps(meta))
    return path


def write_mat_v73(path, **variables):
    """As MATLAB writes it: user block with the header, axes reversed, complex as a compound."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, (array, matlab_class) in variables.items():
            array = np.asarray(array).T
            if np.iscomplexobj(array):
                compound = np.empty(array.shape, [("real", array.real.dtype), ("imag", array.real.dtype)])
                compound["real"], compound["imag"] = array.real, array.imag
                array = compound
            file.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_(matlab_class)
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + struct.pack("<H", 0x0200) + b"IM")
    return path
