#include "memory_node/selection.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "common/check.h"
#include "common/status_macros.h"

namespace msa::memory_node {
namespace {

constexpr int kMaxListed = kernels::kMostListed;
// Parts listed at first beyond those wanted, and up to twice as many more: enough that those nobody
// may see rarely use them up.
constexpr int kSpare = 16;
constexpr int kListedOfRounded = 128;

// A place of a list of the best.
struct Listed {
  float score;
  std::optional<float> exact;
  int64_t index;
};

// As many of the best as TopIndices gives.
std::vector<Listed> List(const kernels::Backend& backend, absl::Span<const float> scores, int k) {
  std::vector<Listed> listed;
  for (const auto& part :
       backend.TopIndices(scores.data(), static_cast<int64_t>(scores.size()), k)) {
    listed.push_back({part.score, std::nullopt, part.index});
  }
  return listed;
}

// The same with the exact scores.
std::vector<Listed> ListExactly(const kernels::Backend& backend, int k, PartScores* scores) {
  std::vector<Listed> listed;
  for (const auto& part : ListBest(backend, k, scores)) {
    listed.push_back({part.score, part.exact, part.index});
  }
  return listed;
}

// Which part of a view a column of its scores is.
class Columns {
 public:
  explicit Columns(const IndexView& view) : view_(view) {
    ends_.reserve(view.size());
    int64_t end = 0;
    for (const SegmentView& segment : view) ends_.push_back(end += segment.num_parts);
  }

  Candidate At(const Listed& listed) const {
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), listed.index);
    const SegmentView& segment = view_[end - ends_.begin()];
    return {.score = listed.score,
            .exact = listed.exact,
            .column = static_cast<int32_t>(listed.index),
            .segment = segment.segment.get(),
            .part = listed.index - (*end - segment.num_parts)};
  }

 private:
  const IndexView& view_;
  std::vector<int64_t> ends_;
};

// The exact score of the last of the best `args.count` of candidates; kNoScore when they are fewer.
float LastPlace(const ShortlistArgs& args, const std::vector<Candidate>& candidates) {
  const std::vector<float> exact = args.exact(candidates);
  std::vector<size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return exact[a] > exact[b]; });
  absl::flat_hash_set<uint64_t> documents;
  int places = 0;
  for (const size_t i : order) {
    if (args.one_per_document && !documents.insert(candidates[i].document()).second) continue;
    if (++places == args.count) return exact[i];
  }
  return kNoScore;
}

// From as many of the best as a backend was asked for. Nullopt when these do not tell.
std::optional<std::vector<Candidate>> ShortlistFrom(const IndexView& view,
                                                    const std::vector<Listed>& best,
                                                    const ShortlistArgs& args, int asked) {
  const bool all = static_cast<int>(best.size()) < asked;
  float error = args.error;
  if (!best.empty() && args.relative_error != 0) {
    error +=
        args.relative_error * std::max(std::abs(best.front().score), std::abs(best.back().score));
  }
  const Columns columns(view);
  std::vector<Candidate> candidates;
  absl::flat_hash_set<uint64_t> documents;
  int places = 0;
  float least = kNoScore;  // the exact score of the last place is at least this
  for (const Listed& listed : best) {
    const Candidate candidate = columns.At(listed);
    if (!args.eligible(candidate)) continue;
    if (places == args.count && !(candidate.score >= least - error)) break;
    candidates.push_back(candidate);
    const bool counts = !args.one_per_document || documents.insert(candidate.document()).second;
    if (places == args.count || !counts) continue;
    if (++places == args.count) least = candidate.score - error;
  }
  if (all && std::isfinite(error)) return candidates;
  // What is not listed has an exact score of at most the last one's and the error.
  if (places < args.count) return std::nullopt;
  const float most = best.back().score + error;
  if (most < least) return candidates;
  // The error was taken from both sides: exact scores of what is listed leave one.
  const bool tells = args.exact != nullptr && std::isfinite(most) &&
                     (asked == kMaxListed || candidates.front().exact.has_value()) &&
                     most < LastPlace(args, candidates);
  return tells ? std::make_optional(std::move(candidates)) : std::nullopt;
}

// How many are listed at first.
int NumListed(int count, bool rounded) {
  const int spare = std::min(count, 2 * kSpare) + kSpare;
  return std::max(count + spare, rounded ? kListedOfRounded : 0);
}

void KeepBest(int top_k, std::vector<rpc::RoutedPart>* routed) {
  const size_t count = std::min(routed->size(), static_cast<size_t>(top_k));
  std::partial_sort(routed->begin(), routed->begin() + count, routed->end(),
                    [](const auto& a, const auto& b) { return Precedes(a.scored, b.scored); });
  routed->resize(count);
}

std::vector<float> ExactScores(const kernels::Backend& backend, const PartScores& scores,
                               const std::vector<Candidate>& candidates) {
  std::vector<float> exact(candidates.size());
  std::vector<int32_t> unknown;
  for (size_t i = 0; i < candidates.size(); ++i) {
    exact[i] = candidates[i].exact.value_or(candidates[i].score);
    if (!candidates[i].exact.has_value()) unknown.push_back(candidates[i].column);
  }
  // A list comes with exact scores or without.
  MSA_CHECK(unknown.empty() || unknown.size() == candidates.size());
  if (scores.error != 0 && !unknown.empty()) ScoreColumns(backend, scores, unknown, exact.data());
  return exact;
}

std::vector<rpc::RoutedPart> ToRouted(const kernels::Backend& backend, const PartScores& scores,
                                      const std::vector<Candidate>& candidates) {
  const std::vector<float> exact = ExactScores(backend, scores, candidates);
  std::vector<rpc::RoutedPart> routed;
  for (size_t i = 0; i < candidates.size(); ++i) {
    routed.push_back({.scored = {exact[i], candidates[i].reference()},
                      .shard = 0,
                      .content_chunks = candidates[i].segment->content_chunks(candidates[i].part)});
  }
  return routed;
}

// The best of one segment. SelectTopK gives references; their parts are those with a score no worse
// than the last chosen, so that few need a look.
void AppendBest(const kernels::Backend& backend, const SegmentView& view,
                absl::Span<const float> scores, uint64_t sequence, int top_k,
                std::vector<rpc::RoutedPart>* routed) {
  std::vector<uint8_t> visible(view.num_parts);
  for (int64_t part = 0; part < view.num_parts; ++part) {
    visible[part] = view.segment->Visible(part, sequence);
  }
  const auto references = view.segment->references(view.num_parts);
  const auto best = backend.SelectTopK(scores, references, visible.data(), top_k);
  if (best.empty()) return;
  absl::flat_hash_map<int64_t, size_t> chosen;
  for (const ScoredPart& part : best) {
    chosen[part.reference] = routed->size();
    routed->push_back({.scored = part, .shard = 0, .content_chunks = 0});
  }
  const float least = best.back().score;
  for (int64_t part = 0; part < view.num_parts; ++part) {
    if (!visible[part] || !(scores[part] >= least)) continue;
    const auto it = chosen.find(references[part]);
    if (it != chosen.end()) {
      (*routed)[it->second].content_chunks = view.segment->content_chunks(part);
    }
  }
}

// From exact scores of every part.
std::vector<rpc::RoutedPart> SelectFromAll(const kernels::Backend& backend,
                                           const PartScores& scores, uint64_t sequence, int top_k) {
  const std::vector<float> host = ToHost(backend, scores);
  absl::Span<const float> left = host;
  std::vector<rpc::RoutedPart> routed;
  for (const SegmentView& view : scores.view) {
    AppendBest(backend, view, left.first(view.num_parts), sequence, top_k, &routed);
    left.remove_prefix(view.num_parts);
  }
  return routed;
}

}  // namespace

std::optional<std::vector<Candidate>> Shortlist(const kernels::Backend& backend,
                                                const IndexView& view,
                                                absl::Span<const float> scores,
                                                const ShortlistArgs& args) {
  const int first = NumListed(args.count, args.error != 0);
  if (first < kMaxListed) {
    auto shortlist = ShortlistFrom(view, List(backend, scores, first), args, first);
    if (shortlist.has_value()) return shortlist;
  }
  if (args.count > kMaxListed) return std::nullopt;
  return ShortlistFrom(view, List(backend, scores, kMaxListed), args, kMaxListed);
}

absl::StatusOr<std::vector<rpc::RoutedPart>> SelectBest(const kernels::Backend& backend,
                                                        PartScores* scores, uint64_t sequence,
                                                        int top_k, SelectionCounts& counts) {
  ShortlistArgs args;
  const bool coarse = scores->candidates > 0;
  args.count = std::max(top_k, scores->candidates);
  args.eligible = [sequence](const Candidate& candidate) {
    return candidate.segment->Visible(candidate.part, sequence);
  };
  const bool exact = scores->error == 0;
  if (!exact && !coarse) {
    args.exact = [&](const std::vector<Candidate>& candidates) {
      return ExactScores(backend, *scores, candidates);
    };
  }
  std::optional<std::vector<Candidate>> shortlist;
  const int first = NumListed(args.count, !exact && !coarse);
  if (!exact && first < kMaxListed) {
    const std::vector<Listed> best = ListExactly(backend, first, scores);
    args.error = coarse ? 0 : scores->error;
    shortlist = ShortlistFrom(scores->view, best, args, first);
    if (!shortlist.has_value()) {
      shortlist =
          ShortlistFrom(scores->view, List(backend, scores->scores, kMaxListed), args, kMaxListed);
    }
  } else {
    TakeError(backend, scores);
    args.error = coarse ? 0 : scores->error;
    shortlist = Shortlist(backend, scores->view, scores->scores, args);
  }
  MSA_RETURN_IF_ERROR(backend.StatusOf(scores->scores.data()));
  std::vector<rpc::RoutedPart> routed;
  if (shortlist.has_value()) {
    routed = ToRouted(backend, *scores, *shortlist);
    if (scores->error != 0) ++(coarse ? counts.coarse : counts.rounded);
  } else {
    MSA_ASSIGN_OR_RETURN(const PartScores all, MakeExact(backend, *scores));
    routed = SelectFromAll(backend, all, sequence, top_k);
    if (scores->error != 0) ++counts.rescanned;
    if (scores->loose) counts.loose.Pause();
  }
  KeepBest(top_k, &routed);
  MSA_RETURN_IF_ERROR(backend.Health());
  return routed;
}

}  // namespace msa::memory_node
