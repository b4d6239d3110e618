"""Checkpoints with the tensor lists of the published ones, as sparse files: all headers are real, all values are zero.

Written from docs/spec/checkpoints.md, sections 2 and 3.
"""

import json
from pathlib import Path

BLOCK = 128


def logical_tensors(config):
    """(name, shape, quantized) of every weight that a published checkpoint of this config holds, MTP layer included."""
    d, vocab = config["hidden_size"], config["vocab_size"]
    heads, rope = config["num_attention_heads"], config["qk_rope_head_dim"]
    nope, value = config["qk_nope_head_dim"], config["v_head_dim"]
    q, r = config["q_lora_rank"], config["kv_lora_rank"]
    layers = config["num_hidden_layers"]
    yield "model.embed_tokens.weight", [vocab, d], False
    yield "model.norm.weight", [d], False
    yield "lm_head.weight", [vocab, d], False
    for i in range(layers + config.get("num_nextn_predict_layers", 0)):
        layer = f"model.layers.{i}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        yield f"{layer}.input_layernorm.weight", [d], False
        yield f"{layer}.post_attention_layernorm.weight", [d], False
        yield f"{attention}.q_a_proj.weight", [q, d], True
        yield f"{attention}.q_a_layernorm.weight", [q], False
        yield f"{attention}.q_b_proj.weight", [heads * (nope + rope), q], True
        yield f"{attention}.kv_a_proj_with_mqa.weight", [r + rope, d], True
        yield f"{attention}.kv_a_layernorm.weight", [r], False
        yield f"{attention}.kv_b_proj.weight", [heads * (nope + value), r], True
        yield f"{attention}.o_proj.weight", [d, heads * value], True
        if "index_topk" in config and config.get("indexer_types", ["full"] * (layers + 1))[i:i + 1] != ["shared"]:
            indexer, width = f"{attention}.indexer", config["index_head_dim"]
            yield f"{indexer}.wq_b.weight", [config["index_n_heads"] * width, q], True
            yield f"{indexer}.wk.weight", [width, d], True
            yield f"{indexer}.weights_proj.weight", [config["index_n_heads"], d], False
            yield f"{indexer}.k_norm.weight", [width], False
            yield f"{indexer}.k_norm.bias", [width], False
        if i < config["first_k_dense_replace"]:
            experts = [(mlp, config["intermediate_size"])]
        else:
            yield f"{mlp}.gate.weight", [config["n_routed_experts"], d], False
            yield f"{mlp}.gate.e_score_correction_bias", [config["n_routed_experts"]], False
            experts = [(f"{mlp}.experts.{e}", config["moe_intermediate_size"]) for e in range(config["n_routed_experts"])]
            experts.append((f"{mlp}.shared_experts", config["n_shared_experts"] * config["moe_intermediate_size"]))
        for module, width in experts:
            yield f"{module}.gate_proj.weight", [width, d], True
            yield f"{module}.up_proj.weight", [width, d], True
            yield f"{module}.down_proj.weight", [d, width], True
        if i == layers:
            yield f"{layer}.enorm.weight", [d], False
            yield f"{layer}.hnorm.weight", [d], False
            yield f"{layer}.eh_proj.weight", [d, 2 * d], False
            yield f"{layer}.shared_head.norm.weight", [d], False
            if config["model_type"] != "glm_moe_dsa":
                yield f"{layer}.embed_tokens.weight", [vocab, d], False
                yield f"{layer}.shared_head.head.weight", [vocab, d], False


def stored_tensors(config):
    """(name, dtype, shape) as FP8 releases store them (section 3.3); bf16 where the config declares no quantization."""
    fp8 = "quantization_config" in config
    for name, shape, quantized in logical_tensors(config):
        if fp8 and quantized:
            yield name, "F8_E4M3", shape
            yield name + "_scale_inv", "F32", [-(-side // BLOCK) for side in shape]
        elif name.endswith("e_score_correction_bias"):
            yield name, "F32", shape
        else:
            yield name, "BF16", shape


WIDTHS = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


def write(folder: Path, config: dict, shards: int = 163) -> int:
    """Writes the checkpoint with its tensors dealt out to `shards` files; returns how many tensors it holds."""
    (folder / "config.json").write_text(json.dumps(config))
    headers = [{} for _ in range(shards)]
    sizes = [0] * shards
    weight_map = {}
    for number, (name, dtype, shape) in enumerate(stored_tensors(config)):
        shard = number * shards // 120_000 if number < 120_000 else shards - 1
        count = WIDTHS[dtype]
        for side in shape:
            count *= side
        headers[shard][name] = {"dtype": dtype, "shape": shape, "data_offsets": [sizes[shard], sizes[shard] + count]}
        sizes[shard] += count
        weight_map[name] = f"model-{shard + 1:05}-of-{shards:06}.safetensors"
    for shard, header in enumerate(headers):
        if not header:
            continue
        text = json.dumps(header).encode()
        with open(folder / f"model-{shard + 1:05}-of-{shards:06}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + sizes[shard])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}))
    return len(weight_map)
