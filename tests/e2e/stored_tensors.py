"""Checkpoints read by hand and their values from docs/spec/checkpoints.md, in numpy: independent of the program.

`read` gives the tensors of a folder as they are stored, `rewrite` changes them, `Values` what modules stand for in float64, and the quantizers what
`fulgur convert` promises to store of given values.
"""

import json

import numpy as np

BLOCK, GROUP = 128, 16
E4M3_MAX, E2M1_MAX = 448.0, 6.0
RAW = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "F8_E4M3": np.uint8, "F8_E8M0": np.uint8, "U8": np.uint8}


def read(folder):
    """name -> (dtype, array of that shape, bits where numpy has no such type)."""
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        blob = file.read_bytes()
        size = int.from_bytes(blob[:8], "little")
        for name, entry in json.loads(blob[8:8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + offset for offset in entry["data_offsets"])
                assert name not in found
                found[name] = (entry["dtype"], np.frombuffer(blob[begin:end], RAW[entry["dtype"]]).reshape(entry["shape"]))
    return found


def rewrite(folder, change, file="model.safetensors"):
    """Applies `change` to the header (a dict) and the data (a bytearray) of a one-file checkpoint, or of one of its files."""
    file = folder / file
    blob = file.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8:8 + size]), bytearray(blob[8 + size:])
    change(header, data)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)


def same(a, b):
    return a[0] == b[0] and a[1].shape == b[1].shape and a[1].tobytes() == b[1].tobytes()


def magnitudes(exponent_bits, mantissa_bits, bias):
    """The values of the non-negative codes of a small float, without special codes."""
    codes = np.arange(1 << (exponent_bits + mantissa_bits))
    exponent, mantissa = codes >> mantissa_bits, codes & ((1 << mantissa_bits) - 1)
    fraction = mantissa / (1 << mantissa_bits)
    return np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))


E4M3 = magnitudes(4, 3, 7)[:127]
E2M1 = magnitudes(2, 1, 1)


def encode(values, table):
    """Codes nearest to values, ties to the even one, without the sign."""
    magnitude = np.abs(values.astype(np.float64))
    middles = (table[1:] + table[:-1]) / 2
    below, above = np.searchsorted(middles, magnitude, "left"), np.searchsorted(middles, magnitude, "right")
    return np.where(below == above, below, np.where(below % 2 == 0, below, above))


def signed(codes, values, sign_bit):
    return (codes | np.where(np.signbit(values), sign_bit, 0)).astype(np.uint8)


def decode(codes, table, sign_bit):
    return np.where(codes & sign_bit, -1.0, 1.0) * table[codes & (sign_bit - 1)]


def bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def to_bf16(values):
    """Bits of the nearest bf16, ties to even, of float64 values: one rounding."""
    bits = values.astype(np.float32).view(np.uint32)
    near = bits.view(np.float32).astype(np.float64)
    # To odd: the only rounding that counts is the one to bf16.
    bits = np.where(np.abs(near) > np.abs(values), bits - 1, bits) | (near != values)
    return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def plain(dtype, array):
    return bf16(array) if dtype == "BF16" else array.astype(np.float64)


def spread(grid, shape):
    """A grid of block scales, one for every element."""
    return np.repeat(np.repeat(grid, BLOCK, 0), BLOCK, 1)[:shape[0], :shape[1]]


def scales_of(dtype, array):
    return np.ldexp(1.0, array.astype(np.int64) - 127) if dtype == "F8_E8M0" else plain(dtype, array)


def values(tensors, module):
    """What a module's weight stands for, and its form."""
    packed = tensors.get(f"{module}.weight_packed")
    dtype, array = packed or tensors[f"{module}.weight"]
    if dtype == "F8_E4M3":
        grid = scales_of(*tensors[f"{module}.weight_scale_inv"])
        return decode(array, E4M3, 0x80) * spread(grid, array.shape), "fp8"
    if dtype != "U8":
        return plain(dtype, array), dtype
    codes = np.stack([array & 15, array >> 4], -1).reshape(array.shape[0], -1)
    groups = np.repeat(decode(tensors[f"{module}.weight_scale"][1], E4M3, 0x80), GROUP, 1)
    if packed:
        factor = 1 / np.float64(tensors[f"{module}.weight_global_scale"][1].reshape(()))
    else:
        factor = np.float64(tensors[f"{module}.weight_scale_2"][1].reshape(()))
    return decode(codes, E2M1, 8) * groups * factor, "nvfp4-ct" if packed else "nvfp4-modelopt"


def quantize_fp8(wanted, power_of_two):
    """Codes and f32 scales of float32 values."""
    rows, cols = wanted.shape
    padded = np.zeros((-(-rows // BLOCK) * BLOCK, -(-cols // BLOCK) * BLOCK), np.float32)
    padded[:rows, :cols] = wanted
    largest = np.abs(padded).reshape(padded.shape[0] // BLOCK, BLOCK, -1, BLOCK).max((1, 3))
    scales = np.where(largest == 0, np.float32(1), largest / np.float32(E4M3_MAX))
    if power_of_two:
        fraction, exponent = np.frexp(scales)
        scales = np.ldexp(np.float32(1), exponent - (fraction == 0.5)).astype(np.float32)
    quotients = wanted / spread(scales, wanted.shape)
    return signed(encode(quotients, E4M3), wanted, 0x80), scales


def quantize_nvfp4(wanted, divides):
    """Packed codes, group scales and the number that is stored for the matrix, of float32 values."""
    largest = np.abs(wanted).max()
    factor = largest / np.float32(E2M1_MAX * E4M3_MAX) if largest else np.float32(1)
    stored = factor
    if divides:
        stored = np.float32(1) / factor
        factor = np.float32(1) / stored
    groups = np.abs(wanted).reshape(wanted.shape[0], -1, GROUP).max(2)
    ideal = np.where(groups == 0, np.float32(1), np.maximum(groups / np.float32(E2M1_MAX) / factor, np.float32(E4M3[1])))
    scales = encode(ideal, E4M3).astype(np.uint8)
    steps = np.repeat(E4M3[scales].astype(np.float32) * factor, GROUP, 1)
    codes = signed(encode(wanted / steps, E2M1), wanted, 8)
    return codes[:, ::2] | codes[:, 1::2] << 4, scales, stored
