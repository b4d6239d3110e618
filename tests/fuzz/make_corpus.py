#!/usr/bin/env python3
"""Writes the seeds of tests/fuzz/corpus, cut from the goldens and mini-v32's tokenizer: tests/fuzz/make_corpus.py"""

import json
import re
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests/golden/data"
CORPUS = ROOT / "tests/fuzz/corpus"
EXPERTS = 2

WIDTHS = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "F8_E8M0": 1, "U8": 1}
RAW, WITH_MTP, FULL, NO_BLOCKS, ROWS, TENSORS, U8_SCALES = (1 << bit for bit in (31, 30, 29, 28, 27, 26, 25))


def write(target, name, content):
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    (CORPUS / target / name).write_bytes(content)


def tensors_of(golden):
    """name -> (dtype, shape), of all shards."""
    tensors = {}
    for file in sorted((GOLDENS / golden).glob("model*.safetensors")):
        data = file.read_bytes()
        header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
        header.pop("__metadata__")
        tensors.update({name: (entry["dtype"], entry["shape"]) for name, entry in header.items()})
    return tensors


def cut(tensors, with_mtp=False):
    """The golden's second layer, a MoE layer, as the only one, with two experts; `with_mtp`, its third one as the MTP layer."""
    kept = {}
    for name, (dtype, shape) in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        expert = re.search(r"\.experts\.(\d+)\.", name)
        if layer and layer[1] not in ("1", "2") or layer and layer[1] == "2" and not with_mtp or expert and int(expert[1]) >= EXPERTS:
            continue
        if ".mlp.gate." in name:
            shape = [EXPERTS, *shape[1:]]
        if layer:
            name = f"model.layers.{int(layer[1]) - 1}.{name[layer.end():]}"
        kept[name] = (dtype, shape)
    if with_mtp:
        d = kept["model.norm.weight"][1][0]
        kept.update({f"model.layers.1.{norm}.weight": ("BF16", [d]) for norm in ("enorm", "hnorm", "shared_head.norm")})
        kept["model.layers.1.eh_proj.weight"] = ("BF16", [d, 2 * d])
    return kept


def header_seed(tensors, flags=0):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        begin, size = end, WIDTHS[dtype]
        for dim in shape:
            size *= dim
        end += size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return struct.pack("<I", flags | end) + json.dumps(header, separators=(",", ":")).encode()


def as_compressed_tensors(tensors):
    spelled = {}
    for name, (dtype, shape) in tensors.items():
        if dtype == "U8":
            name = name + "_packed"
        elif name.endswith("weight_scale_2"):
            name = name.replace("weight_scale_2", "weight_global_scale")
        elif name.endswith("input_scale"):
            name = name.replace("input_scale", "input_global_scale")
        spelled[name] = (dtype, shape)
    return spelled


def with_scales(tensors, shape_of):
    """FP8's scales of another shape and spelling."""
    changed = {}
    for name, (dtype, shape) in tensors.items():
        if name.endswith("weight_scale_inv"):
            rows = tensors[name.removesuffix("_scale_inv")][1][0]
            changed[name.removesuffix("_inv")] = (dtype, shape_of(rows))
        else:
            changed[name] = (dtype, shape)
    return changed


def write_headers():
    for golden in ("v32-bf16", "v32-bf16-fused", "v32-fp8", "v32-fp8-fused", "v32-nvfp4"):
        write("header", golden, header_seed(cut(tensors_of(golden))))
    write("header", "v32-fp8-mtp", header_seed(cut(tensors_of("v32-fp8"), with_mtp=True), WITH_MTP))
    write("header", "v32-bf16-full", header_seed(cut(tensors_of("v32-bf16")), FULL))
    write("header", "v32-nvfp4-ct", header_seed(as_compressed_tensors(cut(tensors_of("v32-nvfp4")))))
    fp8 = cut(tensors_of("v32-fp8"))
    write("header", "v32-fp8-rows", header_seed(with_scales(fp8, lambda rows: [rows, 1]), NO_BLOCKS | ROWS))
    write("header", "v32-fp8-tensors", header_seed(with_scales(fp8, lambda rows: []), NO_BLOCKS | TENSORS))
    u8 = {name: ("U8" if name.endswith("scale_inv") else dtype, shape) for name, (dtype, shape) in fp8.items()}
    write("header", "v32-fp8-u8", header_seed(u8, U8_SCALES))
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b.weight":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]}}'
    write("header", "whole-file", struct.pack("<IQ", RAW, len(text)) + text + bytes(range(8)))


def write_indexes():
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    whole = {"lm_head.weight": shards[0], "model.embed_tokens.weight": shards[0], "model.norm.weight": shards[1],
             "model.layers.0.mlp.gate.weight": shards[1]}
    golden = json.loads((GOLDENS / "v32-fp8/model.safetensors.index.json").read_text())
    seeds = {"whole": whole, "leaves-out": dict(list(whole.items())[:3]), "one-shard": dict(list(whole.items())[:2]), "link": {"model.norm.weight": "link"},
             "elsewhere": {"lm_head.weight": "../model.safetensors"}, "folder": {"a": "folder"}, "loop": {"a": "loop"}, "not-there": {"a": "x"},
             "golden": dict(list(golden["weight_map"].items())[:12])}
    for name, weight_map in seeds.items():
        write("index", name, json.dumps({"metadata": golden["metadata"], "weight_map": weight_map}, indent=1).encode())


def write_json():
    """After how many events the reader stops (255: never), and a text."""
    fp8 = dict(list(cut(tensors_of("v32-fp8")).items())[:6])
    write("json", "header", b"\xff" + header_seed(fp8)[4:])
    write("json", "stopped", b"\x14" + header_seed(fp8)[4:])
    write("json", "index", b"\xff" + (CORPUS / "index/golden").read_bytes())
    write("json", "numbers", b"\xff[0, 10, 9999999999999999999 ,[ ],{ },[[{}],\r\n\t[7]]]")
    write("json", "deep", b"\xff" + b"[" * 16 + b"]" * 16)


def write_configs():
    for golden in ("v32-bf16", "v32-fp8", "v32-nvfp4", "glm-bf16", "glm-fp8", "glm-nvfp4-ct", "v3-fp8", "v3-nvfp4"):
        config = json.loads((GOLDENS / golden / "config.json").read_text())
        for hints in ("ignore", "modules_to_not_convert"):
            if hints in config.get("quantization_config", {}):
                config["quantization_config"][hints] = config["quantization_config"][hints][:2]
        files = [json.dumps(config, indent=1)]
        beside = GOLDENS / golden / "hf_quant_config.json"
        if beside.exists():
            quantization = json.loads(beside.read_text())
            quantization["quantization"]["exclude_modules"] = quantization["quantization"]["exclude_modules"][:2]
            files.append(json.dumps(quantization, indent=1))
        write("config", golden, "\0".join(files).encode())
    mini = [(ROOT / "models/mini-v32" / name).read_text() for name in ("config.json", "generation_config.json")]
    write("config", "mini-v32", "\0\0".join(mini).encode())


def write_tokenizers():
    mini = json.loads((ROOT / "models/mini-v32/tokenizer.json").read_text())
    config = (ROOT / "models/mini-v32/tokenizer_config.json").read_text()
    added = [{**token, "id": 262 + i} for i, token in enumerate(mini["added_tokens"][:3])]
    mini["model"]["merges"] = [["t", "h"], ["th", "e"], ["\u0120", "the"], ["a", "b"], ["1", "2"], ["12", "3"]]
    mini["model"]["vocab"] = {"@bytes": 0, "th": 256, "the": 257, "\u0120the": 258, "ab": 259, "12": 260, "123": 261}
    mini["added_tokens"] = added
    text = f"the ab 12345 {added[0]['content']}\u00e9\u4e2d \U0001f600 they're\n\n x"

    def seed(name, tokenizer, config="", text=text):
        for token in tokenizer["added_tokens"]:
            tokenizer["model"]["vocab"].pop(token["content"], None)
        write("tokenizer", name, "\0".join([json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")), config, text]).encode())

    seed("mini-v32", mini, config)
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    glm = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    split = {"type": "Split", "pattern": {"Regex": glm}, "behavior": "Isolated", "invert": False}
    seed("glm", {**mini, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, {**byte_level, "use_regex": False}]}})
    flags = {"single_word": True, "lstrip": True, "rstrip": True, "normalized": True}
    seed("nfc", {**mini, "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]}, "pre_tokenizer": byte_level,
                 "added_tokens": [{**token, **flags, "content": token["content"] + "e\u0301"} for token in added]},
         text=f"{added[0]['content']}e\u0301 e\u0301\u0344 \uac00\u11a8")
    digits = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                    {"type": "Split", "pattern": {"String": "ab"}, "behavior": "Isolated", "invert": False}, byte_level]}
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [], "special_tokens": {"x": {"id": "x", "ids": [262], "tokens": ["x"]}}}
    spelled = {**mini["model"], "ignore_merges": True, "merges": [" ".join(merge) for merge in mini["model"]["merges"]]}
    seed("template", {**mini, "pre_tokenizer": digits, "post_processor": template, "model": spelled})


if __name__ == "__main__":
    write_headers()
    write_indexes()
    write_json()
    write_configs()
    write_tokenizers()
