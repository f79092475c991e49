#include "memory_node/rank_sums.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/check.h"
#include "common/status_macros.h"
#include "common/strings.h"

namespace msa::memory_node {
namespace {

// Adds scores to the sums by slot. Slots are reused: only the visible owner's score counts.
void AddBySlot(const IndexView& views, absl::Span<const float> scores, uint64_t sequence,
               std::vector<double>& sums) {
  const float* score = scores.data();
  for (const SegmentView& view : views) {
    for (int64_t part = 0; part < view.num_parts; ++part, ++score) {
      if (view.segment->Visible(part, sequence)) sums[view.segment->slot(part)] += *score;
    }
  }
}

// What two roundings of means to float32 take from their order, as a share of them.
constexpr float kMeanRounding = 1.0f / (1 << 22);

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

void KeepBest(const std::vector<uint64_t>& documents, const RankOptions& options,
              std::vector<ScoredPart>* parts) {
  if (options.one_per_document) KeepOnePerDocument(documents, parts);
  const size_t count = std::min(parts->size(), static_cast<size_t>(options.limit));
  std::partial_sort(parts->begin(), parts->begin() + count, parts->end(), Precedes);
  parts->resize(count);
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
  return absl::OkStatus();
}

void RankSums::Add(const PartScores& scores, uint32_t num_slots) {
  MSA_CHECK(scores.pass_error == nullptr);
  layers_.try_emplace(scores.layer_index, Layer{scores, num_slots});
}

float RankSums::MeanError() const {
  double sum = 0;
  for (const auto& [index, layer] : layers_) sum += layer.scores.error;
  return static_cast<float>(sum / static_cast<double>(layers_.size()) * (1 + 1e-6));
}

bool RankSums::Loose() const {
  return std::any_of(layers_.begin(), layers_.end(),
                     [](const auto& layer) { return layer.second.scores.loose; });
}

int32_t RankSums::Candidates() const {
  int32_t candidates = 0;
  for (const auto& [index, layer] : layers_) {
    candidates = std::max(candidates, layer.scores.candidates);
  }
  return candidates;
}

bool RankSums::SameView() const {
  const IndexView& first = layers_.begin()->second.scores.view;
  return std::all_of(layers_.begin(), layers_.end(), [&](const auto& layer) {
    const IndexView& view = layer.second.scores.view;
    return std::equal(view.begin(), view.end(), first.begin(), first.end(),
                      [](const SegmentView& a, const SegmentView& b) {
                        return a.segment == b.segment && a.num_parts == b.num_parts;
                      });
  });
}

absl::StatusOr<std::optional<std::vector<ScoredPart>>> RankSums::RankListed(
    const kernels::Backend& backend, uint64_t sequence, const RankOptions& options) const {
  const IndexView& view = layers_.begin()->second.scores.view;
  const size_t num_parts = layers_.begin()->second.scores.scores.size();
  MSA_ASSIGN_OR_RETURN(const kernels::Buffer means, backend.Allocate(num_parts * sizeof(float)));
  std::vector<const float*> of_layers;
  for (const auto& [index, layer] : layers_) of_layers.push_back(layer.scores.scores.data());
  backend.MeanOfScores(of_layers, static_cast<int64_t>(num_parts), means.as<float>());

  const absl::flat_hash_set<int64_t> exclude(options.exclude.begin(), options.exclude.end());
  ShortlistArgs args;
  args.count = std::max(options.limit, Candidates());
  args.one_per_document = options.one_per_document;
  args.error = Candidates() > 0 ? 0 : MeanError();
  args.relative_error = args.error == 0 ? 0 : kMeanRounding;
  args.eligible = [&](const Candidate& candidate) {
    return candidate.segment->Visible(candidate.part, sequence) &&
           !exclude.contains(candidate.reference()) && std::isfinite(candidate.score);
  };
  // Of those that were looked at to tell whether they tell: scored once.
  std::vector<Candidate> scored;
  std::vector<float> exact;
  const auto same = [](const Candidate& a, const Candidate& b) { return a.column == b.column; };
  if (args.error != 0) {
    args.exact = [&](const std::vector<Candidate>& candidates) {
      scored = candidates;
      return exact = ExactMeans(backend, candidates);
    };
  }
  const auto shortlist = Shortlist(backend, view, {means.as<float>(), num_parts}, args);
  MSA_RETURN_IF_ERROR(backend.StatusOf(means.as<float>()));
  if (!shortlist.has_value()) return std::nullopt;
  if (!std::equal(scored.begin(), scored.end(), shortlist->begin(), shortlist->end(), same)) {
    exact = ExactMeans(backend, *shortlist);
  }
  std::vector<ScoredPart> parts;
  std::vector<uint64_t> documents;
  for (size_t i = 0; i < exact.size(); ++i) {
    parts.push_back({exact[i], (*shortlist)[i].reference()});
    documents.push_back((*shortlist)[i].document());
  }
  KeepBest(documents, options, &parts);
  return parts;
}

std::vector<float> RankSums::ExactMeans(const kernels::Backend& backend,
                                        const std::vector<Candidate>& candidates) const {
  std::vector<float> means;
  std::vector<int32_t> columns;
  for (const Candidate& candidate : candidates) {
    means.push_back(candidate.score);
    columns.push_back(candidate.column);
  }
  if (MeanError() == 0) return means;
  // [layers, columns], with the backend while they are made: one wait for all layers.
  std::vector<float> scores(layers_.size() * columns.size());
  const auto memory = backend.Allocate(scores.size() * sizeof(float));
  float* to = memory.ok() ? memory->as<float>() : scores.data();
  for (const auto& [index, layer] : layers_) {
    ScoreColumns(backend, layer.scores, columns, to);
    to += columns.size();
  }
  if (memory.ok()) backend.Copy(scores.data(), memory->data(), scores.size() * sizeof(float));
  for (size_t i = 0; i < columns.size(); ++i) {
    double sum = 0;
    for (size_t at = i; at < scores.size(); at += columns.size()) sum += scores[at];
    means[i] = static_cast<float>(sum / static_cast<double>(layers_.size()));
  }
  return means;
}

absl::StatusOr<std::vector<ScoredPart>> RankSums::RankAll(const kernels::Backend& backend,
                                                          const IndexView& view, uint64_t sequence,
                                                          const RankOptions& options) const {
  uint32_t num_slots = 0;
  for (const auto& [index, layer] : layers_) num_slots = std::max(num_slots, layer.num_slots);
  std::vector<double> sums(num_slots);
  for (const auto& [index, layer] : layers_) {
    MSA_ASSIGN_OR_RETURN(const PartScores exact, MakeExact(backend, layer.scores));
    AddBySlot(exact.view, ToHost(backend, exact), sequence, sums);
  }
  const absl::flat_hash_set<int64_t> exclude(options.exclude.begin(), options.exclude.end());
  std::vector<ScoredPart> parts;
  std::vector<uint64_t> documents;
  for (const SegmentView& segment_view : view) {
    const Segment& segment = *segment_view.segment;
    const auto references = segment.references(segment_view.num_parts);
    for (int64_t part = 0; part < segment_view.num_parts; ++part) {
      if (!segment.Visible(part, sequence) || exclude.contains(references[part])) continue;
      if (segment.slot(part) >= sums.size()) continue;
      const double mean = sums[segment.slot(part)] / static_cast<double>(layers_.size());
      if (!std::isfinite(mean)) continue;  // no score in some layer
      parts.push_back({static_cast<float>(mean), references[part]});
      documents.push_back(segment.added(part));
    }
  }
  KeepBest(documents, options, &parts);
  return parts;
}

absl::StatusOr<std::vector<ScoredPart>> RankSums::Rank(const kernels::Backend& backend,
                                                       int32_t round, const IndexView& view,
                                                       uint64_t sequence,
                                                       const RankOptions& options,
                                                       SelectionCounts& counts) const {
  if (round != round_ || layers_.empty()) {
    return absl::FailedPreconditionError(
        StrCat("no layer was routed in round ", round, "; route before ranking"));
  }
  std::optional<std::vector<ScoredPart>> parts;
  const bool listable = SameView() && std::max(options.limit, Candidates()) <= kernels::kMostListed;
  if (listable) {
    MSA_ASSIGN_OR_RETURN(parts, RankListed(backend, sequence, options));
  }
  if (MeanError() != 0) {
    auto& listed = Candidates() > 0 ? counts.coarse : counts.rounded;
    ++(parts.has_value() ? listed : counts.rescanned);
  }
  counts.loose.CountRank(Loose());
  if (!parts.has_value()) {
    if (listable && Loose()) counts.loose.Pause();
    MSA_ASSIGN_OR_RETURN(parts, RankAll(backend, view, sequence, options));
  }
  MSA_RETURN_IF_ERROR(backend.Health());
  return *std::move(parts);
}

}  // namespace msa::memory_node
