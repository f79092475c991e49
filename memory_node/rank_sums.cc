#include "memory_node/rank_sums.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

void AddTo(const std::vector<float>& scores, std::vector<double>* sums) {
  if (sums->size() < scores.size()) sums->resize(scores.size());
  for (size_t slot = 0; slot < scores.size(); ++slot) (*sums)[slot] += scores[slot];
}

std::vector<float> BySlot(const IndexView& views, absl::Span<const float> scores, uint64_t sequence,
                          uint32_t num_slots) {
  std::vector<float> by_slot(num_slots);
  const float* score = scores.data();
  for (const SegmentView& view : views) {
    for (int64_t part = 0; part < view.num_parts; ++part, ++score) {
      // Slots are reused: only the visible owner's score counts.
      if (view.segment->Visible(part, sequence)) by_slot[view.segment->slot(part)] = *score;
    }
  }
  return by_slot;
}

// Only the best part of each document, told apart by `documents`.
void KeepOnePerDocument(const std::vector<uint64_t>& documents, std::vector<ScoredPart>* parts) {
  absl::flat_hash_map<uint64_t, ScoredPart> best;
  for (size_t i = 0; i < parts->size(); ++i) {
    const auto [it, inserted] = best.emplace(documents[i], (*parts)[i]);
    if (!inserted && Precedes((*parts)[i], it->second)) it->second = (*parts)[i];
  }
  parts->clear();
  for (const auto& [document, part] : best) parts->push_back(part);
}

}  // namespace

absl::Status RankSums::Begin(int32_t round) {
  if (round == round_) return absl::OkStatus();
  if (round < round_) {
    return absl::InvalidArgumentError(
        StrCat("round ", round, " is over: round ", round_, " has begun"));
  }
  round_ = round;
  layers_.clear();
  next_layer_ = 0;
  sums_.clear();
  early_.clear();
  on_device_.clear();
  return absl::OkStatus();
}

void RankSums::Add(const kernels::Backend& backend, int layer_index, const PartScores& scores,
                   uint64_t sequence, uint32_t num_slots) {
  if (!layers_.insert(layer_index).second) return;
  if (backend.memory_is_host()) {
    AddHost(layer_index, BySlot(scores.view, scores.scores, sequence, num_slots));
  } else {
    on_device_[layer_index] = {scores, num_slots};
  }
}

void RankSums::FetchAll(const kernels::Backend& backend, uint64_t sequence) {
  for (const auto& [layer_index, layer] : on_device_) {
    const std::vector<float> host = ToHost(backend, layer.scores);
    AddHost(layer_index, BySlot(layer.scores.view, host, sequence, layer.num_slots));
  }
  on_device_.clear();
}

void RankSums::AddHost(int layer_index, std::vector<float> by_slot) {
  early_[layer_index] = std::move(by_slot);
  while (!early_.empty() && early_.begin()->first == next_layer_) {
    AddTo(early_.begin()->second, &sums_);
    early_.erase(early_.begin());
    ++next_layer_;
  }
}

std::vector<double> RankSums::Total() const {
  std::vector<double> total = sums_;
  for (const auto& [layer, scores] : early_) AddTo(scores, &total);
  return total;
}

absl::StatusOr<std::vector<ScoredPart>> RankSums::Rank(const kernels::Backend& backend,
                                                       int32_t round, const IndexView& view,
                                                       uint64_t sequence,
                                                       const RankOptions& options) {
  if (round != round_ || layers_.empty()) {
    return absl::FailedPreconditionError(
        StrCat("no layer was routed in round ", round, "; route before ranking"));
  }
  FetchAll(backend, sequence);
  const std::vector<double> total = Total();
  const absl::flat_hash_set<int64_t> exclude(options.exclude.begin(), options.exclude.end());
  std::vector<ScoredPart> parts;
  std::vector<uint64_t> documents;
  for (const SegmentView& segment_view : view) {
    const Segment& segment = *segment_view.segment;
    const auto references = segment.references(segment_view.num_parts);
    for (int64_t part = 0; part < segment_view.num_parts; ++part) {
      if (!segment.Visible(part, sequence) || exclude.contains(references[part])) continue;
      if (segment.slot(part) >= total.size()) continue;
      const double mean = total[segment.slot(part)] / static_cast<double>(layers_.size());
      if (!std::isfinite(mean)) continue;  // no score in some layer
      parts.push_back({static_cast<float>(mean), references[part]});
      documents.push_back(segment.added(part));
    }
  }
  if (options.one_per_document) KeepOnePerDocument(documents, &parts);
  const size_t count = std::min(parts.size(), static_cast<size_t>(options.limit));
  std::partial_sort(parts.begin(), parts.begin() + count, parts.end(), Precedes);
  parts.resize(count);
  return parts;
}

}  // namespace msa::memory_node
