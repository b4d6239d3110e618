#pragma once

#include <filesystem>
#include <functional>
#include <span>

#include "checkpoint/load_plan.h"
#include "property/draw_model.h"
#include "property/store_model.h"
#include "reference/table.h"

namespace fulgur::property {

/// The plan has no problem, and every tensor is in one parameter (kv_b_proj in two) or ignored by a rule that
/// was meant.
void require_whole_plan(const ModelDraw& draw, const StoredModel& stored, const std::filesystem::path& folder,
                        bool with_mtp);

/// A parameter as the tables of a model have it, and as it was loaded from a folder.
using WeightCheck = std::function<void(const Parameter& parameter, const reference::Table& expected,
                                       const reference::Table& found)>;
/// Loads every weight in full precision, the MTP layer's too. Plain ones are aligned to their type.
void for_each_weight(const StoredModel& stored, const std::filesystem::path& folder,
                     std::span<const WeightForm> readable, const WeightCheck& check);

/// Every weight is the exact product of its codes and scales.
void require_weights(const StoredModel& stored, const std::filesystem::path& folder,
                     std::span<const WeightForm> readable);

}  // namespace fulgur::property
