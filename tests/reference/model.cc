#include "reference/model.h"

#include <cmath>
#include <numeric>

#include "reference/embed.h"
#include "reference/indexer_prepare.h"
#include "reference/indexer_scores.h"
#include "reference/indexer_select.h"
#include "reference/linear.h"
#include "reference/mtp_input.h"
#include "reference/rms_norm.h"

namespace fulgur::reference {
namespace {

Table add(Table a, const Table& b) {
  for (size_t i = 0; i < a.data.size(); ++i) a.data[i] = a.data[i] + b.data[i];
  return a;
}

std::vector<double> plain(Row row, int64_t count) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(row[static_cast<size_t>(i)].value);
  return values;
}

}  // namespace

Model::Model(ModelConfig config, ModelTables tables) : config_(config), tables_(std::move(tables)) {}

Trace Model::forward(std::span<const int32_t> tokens) const {
  Trace trace;
  trace.hidden.push_back(embed(tokens, tables_.embedding));
  for (const LayerTables& layer : tables_.layers) {
    trace.hidden.push_back(decoder_layer(layer, trace.hidden.back(), trace));
  }
  trace.final_hidden = rms_norm(trace.hidden.back(), tables_.norm.row(0), config_.eps);
  trace.logits = linear(trace.final_hidden, tables_.head);
  return trace;
}

MtpTrace Model::forward_mtp(std::span<const int32_t> tokens, const Table& final_hidden) const {
  const MtpTables& mtp = *tables_.mtp;
  const Table embedded = embed(tokens.subspan(1), mtp.embedding);
  const Table pairs = mtp_input(embedded, mtp.enorm.row(0), final_hidden.take_rows(0, embedded.rows),
                                mtp.hnorm.row(0), config_.eps);
  Trace own;
  MtpTrace trace;
  trace.hidden = decoder_layer(mtp.layer, linear(pairs, mtp.eh_proj), own);
  trace.logits = linear(rms_norm(trace.hidden, mtp.head_norm.row(0), config_.eps), mtp.head);
  return trace;
}

Table Model::decoder_layer(const LayerTables& layer, const Table& hidden, Trace& trace) const {
  const RopeAngles angles = rope_angles(config_.rope, hidden.rows);
  const Table x = rms_norm(hidden, layer.input_norm.row(0), config_.eps);
  const Queries q = queries(layer, x, angles);

  trace.index_scores.emplace_back();
  if (layer.indexer) trace.index_scores.back() = index_scores(*layer.indexer, x, q.latent, angles);
  Selection selected(static_cast<size_t>(x.rows));
  for (int64_t t = 0; t < x.rows; ++t) {
    std::vector<int32_t>& row = selected[static_cast<size_t>(t)];
    if (config_.index_topk == 0) {
      row.resize(static_cast<size_t>(t) + 1);
      std::iota(row.begin(), row.end(), 0);
    } else if (layer.indexer) {
      row = select_top<double>(plain(trace.index_scores.back()->row(t), t + 1), config_.index_topk);
    } else {
      row = trace.selected.back()[static_cast<size_t>(t)];
    }
  }
  trace.selected.push_back(selected);

  const Table attended = add(hidden, attention(layer, x, q.projected, selected, angles));
  const Table y = rms_norm(attended, layer.post_attention_norm.row(0), config_.eps);
  if (layer.dense) {
    trace.routing.emplace_back();
    return add(attended, ffn(y, *layer.dense, DType::kF32));
  }
  MoeResult experts = moe(y, *layer.moe, config_.moe, DType::kF32);
  trace.routing.push_back(std::move(experts.routing));
  return add(attended, experts.delta);
}

Model::Queries Model::queries(const LayerTables& layer, const Table& x, const RopeAngles& angles) const {
  const MlaShape& shape = config_.mla;
  Queries result{x, {}};
  if (layer.q_a.rows > 0) result.latent = rms_norm(linear(x, layer.q_a), layer.q_a_norm.row(0), kLatentEps);
  result.projected = linear(result.latent, layer.q_b);
  const auto head_width = static_cast<size_t>(shape.nope + shape.rope);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (size_t h = 0; h < static_cast<size_t>(shape.num_heads); ++h) {
      const auto head = result.projected.row(t).subspan(h * head_width, head_width);
      rotate(head.last(static_cast<size_t>(shape.rope)), angles.cos.row(t), angles.sin.row(t),
             shape.rope_interleave);
    }
  }
  return result;
}

Table Model::index_scores(const IndexerTables& indexer, const Table& x, const Table& q_latent,
                          const RopeAngles& angles) const {
  const IndexerShape& shape = config_.indexer;
  const auto head_dim = static_cast<size_t>(shape.head_dim);
  const auto rope_width = static_cast<size_t>(shape.rope);
  Table k = layer_norm(linear(x, indexer.wk), indexer.k_norm_gain.row(0), indexer.k_norm_bias.row(0));
  Table q = linear(q_latent, indexer.wq_b);
  Table w = linear(x, indexer.weights_proj);
  for (Real& value : w.data)
    value = value * Real(1 / std::sqrt(static_cast<double>(shape.num_heads) * shape.head_dim));
  for (int64_t t = 0; t < x.rows; ++t) {
    const Row cos = angles.cos.row(t);
    const Row sin = angles.sin.row(t);
    rotate(k.row(t).first(rope_width), cos, sin, shape.rope_interleave);
    for (size_t h = 0; h < static_cast<size_t>(shape.num_heads); ++h) {
      rotate(q.row(t).subspan(h * head_dim, rope_width), cos, sin, shape.rope_interleave);
    }
  }
  Table scores(x.rows, x.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t s = 0; s <= t; ++s) scores.at(t, s) = index_score(q.row(t), w.row(t), k.row(s));
  }
  return scores;
}

Table Model::attention(const LayerTables& layer, const Table& x, const Table& q, const Selection& selected,
                       const RopeAngles& angles) const {
  const MlaShape& shape = config_.mla;
  const auto kv_lora = static_cast<size_t>(shape.kv_lora);
  const auto nope = static_cast<size_t>(shape.nope);
  const auto value = static_cast<size_t>(shape.value);
  const auto head_width = static_cast<size_t>(shape.nope + shape.rope);
  const Real scale(softmax_scale(config_.rope, shape.nope));

  Table kv = linear(x, layer.kv_a);
  Table latent(x.rows, shape.kv_lora);
  for (int64_t t = 0; t < x.rows; ++t) {
    std::copy_n(kv.row(t).begin(), kv_lora, latent.row(t).begin());
    rotate(kv.row(t).subspan(kv_lora), angles.cos.row(t), angles.sin.row(t), shape.rope_interleave);
  }
  latent = rms_norm(latent, layer.kv_a_norm.row(0), kLatentEps);
  const Table expanded =
      linear(latent, layer.kv_b);  // [T, h*(dn+dv)]: head after head, dn of the key, then dv of the value

  Table o(x.rows, int64_t{shape.num_heads} * shape.value);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (size_t h = 0; h < static_cast<size_t>(shape.num_heads); ++h) {
      const Row query = q.row(t).subspan(h * head_width, head_width);
      std::vector<Real> p;
      double largest = -HUGE_VAL;
      for (const int32_t s : selected[static_cast<size_t>(t)]) {
        const Row key_nope = expanded.row(s).subspan(h * (nope + value), nope);
        const Row key_rope = kv.row(s).subspan(kv_lora);
        p.push_back(scale * (dot(query.first(nope), key_nope) + dot(query.subspan(nope), key_rope)));
        largest = std::max(largest, p.back().value);
      }
      for (Real& z : p) z = exponential(z - Real(largest));
      const Real total = sum(p);
      for (size_t i = 0; i < value; ++i) {
        std::vector<Real> column;
        for (const int32_t s : selected[static_cast<size_t>(t)]) {
          column.push_back(expanded.row(s)[h * (nope + value) + nope + i]);
        }
        o.row(t)[h * value + i] = dot(p, column) / total;
      }
    }
  }
  return linear(o, layer.o);
}

}  // namespace fulgur::reference
