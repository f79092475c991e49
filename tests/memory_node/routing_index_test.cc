// The index against a list of what should be visible, through random sequences of everything that
// can happen.
#include "memory_node/routing_index.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "common/block_layout.h"
#include "common/limits.h"
#include "common/strings.h"
#include "gtest/gtest.h"
#include "kernels/coarse_codes.h"
#include "kernels/group_backend.h"
#include "memory_node/rank_sums.h"
#include "memory_node/scan_sharing.h"
#include "memory_node/selection.h"
#include "tests/memory_node/index_parts.h"
#include "tests/support/encoded_documents.h"
#include "tests/support/tiny_backend.h"

namespace msa::memory_node {
namespace {

// Where the keys lie, and how much the backend's scans round.
struct Place {
  const char* name;
  int members;
  bool device;
  float error;
};
constexpr Place kPlaces[] = {{"host", 1, false, 0},        {"device", 1, true, 0},
                             {"rounding", 1, true, 2},     {"rounding_away", 1, true, 1000},
                             {"two_devices", 2, true, 0},  {"four_devices", 4, true, 0},
                             {"two_rounding", 2, true, 2}, {"three_rounding_away", 3, true, 1000}};

// A backend, or several as one.
class Members {
 public:
  explicit Members(const Place& place) {
    std::vector<const kernels::Backend*> borrowed;
    for (int i = 0; i < place.members; ++i) {
      members_.push_back(
          std::make_unique<testing::TinyBackend>(place.device, place.error, 10 * place.error));
      borrowed.push_back(members_.back().get());
    }
    if (place.members > 1) group_ = kernels::MakeGroupBackend(borrowed, nullptr);
  }
  const kernels::Backend& all() const { return group_ == nullptr ? *members_[0] : *group_; }

 private:
  std::vector<std::unique_ptr<kernels::Backend>> members_;
  std::unique_ptr<kernels::Backend> group_;
};

// Keys of 64 numbers, which can have codes.
rpc::BankSpec CodedBank(DType dtype) {
  rpc::BankSpec bank = testing::TestBank(dtype, dtype);
  bank.routing.head_dim = 32;
  return bank;
}

// A part's score by the codes of its keys, in TinyBackend's order.
float CoarseScore(const rpc::BankSpec& bank, const rpc::EncodedPart& part, int layer,
                  const std::vector<float>& queries) {
  const int width = bank.routing.key_width();
  const auto block = part.layers[layer].routing.view();
  const RoutingBlockLayout layout(bank.routing_dtype, part.routing_chunks, width);
  const auto* scales = reinterpret_cast<const float*>(block.data() + layout.scales_offset);
  std::vector<float> keys(part.routing_chunks * width);
  testing::TinyBackend().Dequantize(block.data(), scales, part.routing_chunks, width,
                                    bank.routing_dtype, keys.data());
  float best = kNoScore;
  for (auto key = keys.begin(); key != keys.end(); key += width) {
    std::vector<uint8_t> codes(kernels::CodeBytes(width));
    std::vector<float> decoded(width);
    float scale = 0;
    kernels::EncodeKey(&*key, width, codes.data(), &scale);
    kernels::DecodeKey(codes.data(), scale, width, decoded.data());
    for (auto query = queries.begin(); query != queries.end(); query += width) {
      float sum = 0;
      for (int i = 0; i < width; ++i) sum += decoded[i] * query[i];
      best = std::max(best, sum);
    }
  }
  return best * bank.routing.scale;
}

// The definition: each part with the sequence numbers between which it is seen.
class IndexStory {
 public:
  IndexStory(DType dtype, const Place& place, uint64_t seed)
      : bank_(seed % 6 == 0 ? CodedBank(dtype) : testing::TestBank(dtype, dtype)),
        can_have_codes_(seed % 6 == 0),
        members_(place),
        backend_(members_.all()),
        index_(backend_, KeyShapeOf(bank_),
               {.min_segment_chunks = 16,
                .max_segment_bytes_per_layer =
                    static_cast<int64_t>(100 * KeyShapeOf(bank_).KeyBytes())}),
        sharer_(&backend_, {}),
        random_(seed) {}

  void Step() {
    if (can_have_codes_ && random_() % 16 == 0) {
      keeps_codes_ = !keeps_codes_;
      ASSERT_TRUE(index_.KeepCodes(keeps_codes_).ok());
    }
    switch (random_() % 8) {
      case 0:
      case 1:
      case 2:
        return Add(nullptr, true);
      case 3:
        return live_.empty() ? Add(nullptr, true) : Replace();
      case 4:
        return live_.empty() ? Add(nullptr, false) : Delete();
      case 5:
        snapshots_.push_back(index_.sequence());
        if (snapshots_.size() > 4) snapshots_.erase(snapshots_.begin() + random_() % 4);
        return;
      case 6:
        while (index_.CompactOnce(Oldest())) {
        }
        return;
      default: {
        const uint64_t sequence = random_() % 2 == 0 || snapshots_.empty()
                                      ? index_.sequence()
                                      : snapshots_[random_() % snapshots_.size()];
        return random_() % 3 == 0 ? CheckRank(sequence) : Check(sequence);
      }
    }
  }

  void Check(uint64_t sequence) {
    const auto queries = testing::MakeQueries(bank_, 1 + random_() % 3, random_());
    const int layer = static_cast<int>(random_() % 3);
    const int top_k = 1 + static_cast<int>(random_() % 20);
    const int32_t candidates = Candidates();
    auto scores = sharer_.Score(
        {}, {&index_, &bank_.routing, layer, &queries, candidates, random_() % 2 == 0});
    ASSERT_TRUE(scores.ok());
    ASSERT_EQ(scores->candidates, keeps_codes_ || scores->view.empty() ? candidates : 0);
    const auto selected = SelectBest(backend_, &*scores, sequence, top_k, counts_);
    ASSERT_TRUE(selected.ok());
    const auto& routed = *selected;
    std::vector<ScoredPart> expected;
    for (const auto& [reference, part] : parts_) {
      EXPECT_EQ(index_.Visible(reference, sequence), part.Visible(sequence)) << reference;
      if (!part.Visible(sequence)) continue;
      expected.push_back({testing::OracleScore(bank_, part.encoded, layer, queries), reference});
    }
    EXPECT_EQ(index_.CountVisible(sequence), static_cast<int64_t>(expected.size()));
    if (scores->candidates > 0) {
      KeepCandidates(std::max(top_k, candidates), layer, queries, &expected);
    }
    std::sort(expected.begin(), expected.end(), Precedes);
    expected.resize(std::min<size_t>(expected.size(), top_k));
    ASSERT_EQ(routed.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(routed[i].scored.reference, expected[i].reference);
      ASSERT_EQ(routed[i].scored.score, expected[i].score);
      ASSERT_EQ(routed[i].content_chunks, parts_[expected[i].reference].encoded.content_chunks);
    }
  }

  // Those whose codes score best, and all as good as the last of them.
  void KeepCandidates(int count, int layer, const std::vector<float>& queries,
                      std::vector<ScoredPart>* parts) {
    if (static_cast<int>(parts->size()) <= count) return;
    std::map<int64_t, float> coarse;
    std::vector<float> ordered;
    for (const ScoredPart& part : *parts) {
      const float score = CoarseScore(bank_, parts_[part.reference].encoded, layer, queries);
      coarse[part.reference] = score;
      ordered.push_back(score);
    }
    std::sort(ordered.rbegin(), ordered.rend());
    std::erase_if(*parts, [&](const ScoredPart& part) {
      return coarse[part.reference] < ordered[count - 1];
    });
  }

  // Means over all layers; now and then a document comes between two of them.
  void CheckRank(uint64_t sequence) {
    const auto queries = testing::MakeQueries(bank_, 1 + random_() % 3, random_());
    RankSums sums;
    ASSERT_TRUE(sums.Begin(0).ok());
    // Of all parts there are.
    const int32_t candidates = can_have_codes_ && random_() % 2 == 0 ? kMaxCandidates : 0;
    for (const int layer : {1, 0, 2}) {
      auto scores = sharer_.Score(
          {}, {&index_, &bank_.routing, layer, &queries, candidates, random_() % 2 == 0});
      ASSERT_TRUE(scores.ok());
      TakeError(backend_, &*scores);
      sums.Add(*scores, index_.num_slots());
      if (random_() % 8 == 0) Add(nullptr, true);
    }
    RankOptions options{.limit = 1 + static_cast<int>(random_() % 20),
                        .one_per_document = random_() % 2 == 0};
    std::vector<int64_t> exclude;
    for (const Document& document : live_) {
      if (random_() % 4 == 0) exclude.push_back(document.front());
    }
    options.exclude = exclude;
    const auto ranked = sums.Rank(backend_, 0, index_.View(), sequence, options, counts_);
    ASSERT_TRUE(ranked.ok());
    std::vector<ScoredPart> expected;
    for (const auto& [reference, part] : parts_) {
      if (!part.Visible(sequence)) continue;
      if (std::find(exclude.begin(), exclude.end(), reference) != exclude.end()) continue;
      double sum = 0;
      for (const int layer : {0, 1, 2}) {
        sum += testing::OracleScore(bank_, part.encoded, layer, queries);
      }
      expected.push_back({static_cast<float>(sum / 3), reference});
    }
    std::sort(expected.begin(), expected.end(), Precedes);
    if (options.one_per_document) {  // references of a document are next to each other
      std::set<int64_t> seen;
      std::erase_if(expected, [&](const ScoredPart& part) {
        return !seen.insert(part.reference / 5).second;
      });
    }
    expected.resize(std::min<size_t>(expected.size(), options.limit));
    ASSERT_EQ(ranked->size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ((*ranked)[i].reference, expected[i].reference);
      ASSERT_EQ((*ranked)[i].score, expected[i].score);
    }
  }

  const SelectionCounts& counts() const { return counts_; }

  // After everything is deleted and compacted nothing is left.
  void End() {
    while (!live_.empty()) Delete();
    snapshots_.clear();
    while (index_.CompactOnce(Oldest())) {
    }
    const IndexStats stats = index_.Stats(Oldest());
    EXPECT_EQ(stats.dead_parts, 0);
    EXPECT_EQ(stats.key_bytes, 0);
    EXPECT_EQ(stats.code_bytes, 0);
    EXPECT_EQ(stats.num_segments, 0);
  }

 private:
  int32_t Candidates() {
    if (!can_have_codes_) return 0;
    const int32_t choices[] = {0, 1, 5, kMaxCandidates};
    return choices[random_() % 4];
  }

  struct Part {
    rpc::EncodedPart encoded;
    uint64_t added = kNever;
    uint64_t removed = kNever;
    bool Visible(uint64_t at) const { return added <= at && at < removed; }
  };
  using Document = std::vector<int64_t>;

  uint64_t Oldest() const {
    uint64_t oldest = index_.sequence();
    for (uint64_t snapshot : snapshots_) oldest = std::min(oldest, snapshot);
    return oldest;
  }

  void Add(const Document* replaced, bool publish) {
    const std::vector<int32_t> tokens(1 + random_() % 3, 1 + static_cast<int32_t>(random_() % 64));
    const auto document = testing::MakeDocument(
        bank_, {.id = "d", .first_reference = next_, .part_tokens = tokens, .seed = random_()});
    next_ += 5;
    std::vector<IndexPart> added;
    Document references;
    for (const auto& part : document.parts) {
      added.push_back(PartOf(part));
      references.push_back(part.reference);
    }
    ASSERT_TRUE(index_.Append(added).ok());
    for (int64_t reference : references) EXPECT_FALSE(index_.Visible(reference, kNever - 1));
    if (!publish) return index_.Abandon(references);
    const uint64_t at = index_.Publish(references, replaced == nullptr ? Document() : *replaced);
    for (const auto& part : document.parts) parts_[part.reference] = {part, at, kNever};
    if (replaced != nullptr) {
      for (int64_t reference : *replaced) parts_[reference].removed = at;
    }
    live_.push_back(references);
  }

  void Replace() {
    const size_t at = random_() % live_.size();
    const Document old = live_[at];
    live_.erase(live_.begin() + at);
    Add(&old, true);
  }

  void Delete() {
    const size_t at = random_() % live_.size();
    index_.Mask(live_[at]);
    for (int64_t reference : live_[at]) parts_[reference].removed = kMasked;
    live_.erase(live_.begin() + at);
  }

  const rpc::BankSpec bank_;
  const bool can_have_codes_;
  const Members members_;
  const kernels::Backend& backend_;
  RoutingIndex index_;
  ScanSharer sharer_;
  SelectionCounts counts_;
  std::mt19937_64 random_;
  std::map<int64_t, Part> parts_;
  std::vector<Document> live_;
  std::vector<uint64_t> snapshots_;
  int64_t next_ = 0;
  bool keeps_codes_ = false;
};

class RoutingIndexTest : public ::testing::TestWithParam<std::tuple<DType, Place>> {};

TEST_P(RoutingIndexTest, AnswersAsAListWould) {
  const auto& [dtype, place] = GetParam();
  int64_t rounded = 0, coarse = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    IndexStory story(dtype, place, seed);
    for (int step = 0; step < 400; ++step) {
      story.Step();
      if (::testing::Test::HasFailure()) return;
    }
    story.End();
    rounded += story.counts().rounded;
    coarse += story.counts().coarse;
  }
  EXPECT_GT(coarse, 0);
  EXPECT_EQ(rounded > 0, place.error > 0);
}

INSTANTIATE_TEST_SUITE_P(Precisions, RoutingIndexTest,
                         ::testing::Combine(::testing::Values(DType::kFloat32, DType::kBFloat16,
                                                              DType::kInt8),
                                            ::testing::ValuesIn(kPlaces)),
                         [](const auto& info) {
                           return StrCat(DTypeName(std::get<0>(info.param)), "_",
                                         std::get<1>(info.param).name);
                         });

TEST(RoutingIndexLimits, CodesThatDoNotFitAreGivenUpAndKeysStay) {
  const auto bank = CodedBank(DType::kBFloat16);
  const testing::TinyBackend backend;
  const auto document =
      testing::MakeDocument(bank, {.id = "d", .first_reference = 0, .part_tokens = {64}});
  const SegmentShape shape = KeyShapeOf(bank);
  const auto keys = static_cast<int64_t>(document.parts[0].routing_chunks * shape.ChunkBytes());
  RoutingIndex index(backend, shape, {.min_segment_chunks = 64, .max_key_bytes = keys + 1});
  ASSERT_TRUE(index.Append({PartOf(document.parts[0])}).ok());
  EXPECT_EQ(index.KeepCodes(true).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(index.Stats(1).code_bytes, 0);
  EXPECT_EQ(index.View()[0].codes, nullptr);
  EXPECT_EQ(index.Stats(1).key_bytes, keys);
}

// What a member holds, and how much it may.
class CountingBackend : public testing::TinyBackend {
 public:
  explicit CountingBackend(int64_t limit) : testing::TinyBackend(/*device=*/true), limit_(limit) {}

  absl::StatusOr<kernels::Buffer> Allocate(size_t bytes, Purpose purpose) const override {
    if (free_bytes() < static_cast<int64_t>(bytes)) return absl::ResourceExhaustedError("full");
    auto memory = std::make_shared<kernels::Buffer>(kernels::AllocateHost(bytes));
    held_ += static_cast<int64_t>(bytes);
    return kernels::Buffer(memory->data(), bytes,
                           [this, memory, bytes](void*) { held_ -= static_cast<int64_t>(bytes); });
  }
  int64_t free_bytes() const override { return limit_ - held_; }
  int64_t held() const { return held_; }

 private:
  const int64_t limit_;
  mutable std::atomic<int64_t> held_{0};
};

TEST(RoutingIndexOfAGroup, MembersHoldAboutTheSameAndTheFullOnesNoMore) {
  const auto bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const int64_t chunk = static_cast<int64_t>(KeyShapeOf(bank).ChunkBytes());
  // Marks of parts take memory, too: the last has room for some 60 chunks.
  const CountingBackend a(1 << 30), b(1 << 30), small(80 * chunk);
  const auto group = kernels::MakeGroupBackend({&a, &b, &small}, nullptr);
  RoutingIndex index(*group, KeyShapeOf(bank),
                     {.min_segment_chunks = 16, .max_segment_bytes_per_layer = 1});
  for (int64_t i = 0; i < 400; ++i) {
    const auto document = testing::MakeDocument(bank, {.id = "d", .first_reference = i});
    ASSERT_TRUE(index.Append({PartOf(document.parts[0])}).ok());
    index.Publish({i}, {});
  }
  EXPECT_GT(small.held(), 40 * chunk);
  EXPECT_LE(small.held(), 80 * chunk);
  EXPECT_GT(a.held(), 150 * chunk);
  EXPECT_NEAR(a.held(), b.held(), 20 * chunk);
}

TEST(RoutingIndexLimits, ADeviceThatFailedIsNotAFullOne) {
  class Failed : public testing::TinyBackend {
   public:
    absl::StatusOr<kernels::Buffer> Allocate(size_t, Purpose) const override {
      return absl::UnavailableError("GPU 0 failed");
    }
  };
  const auto bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const Failed backend;
  RoutingIndex index(backend, KeyShapeOf(bank), {});
  const auto document = testing::MakeDocument(bank, {.id = "a", .first_reference = 1});
  EXPECT_EQ(index.Append({PartOf(document.parts[0])}).code(), absl::StatusCode::kUnavailable);
}

TEST(RoutingIndexLimits, MemoryAndReferencesAreRefusedWithoutATrace) {
  const auto bank = testing::TestBank(DType::kFloat32, DType::kFloat32);
  const int64_t chunk = static_cast<int64_t>(KeyShapeOf(bank).ChunkBytes());
  const testing::TinyBackend backend;
  RoutingIndex index(backend, KeyShapeOf(bank), {.max_key_bytes = 5 * chunk});
  const auto three =
      testing::MakeDocument(bank, {.id = "a", .first_reference = 1, .part_tokens = {8, 4}});
  ASSERT_TRUE(index.Append({PartOf(three.parts[0]), PartOf(three.parts[1])}).ok());
  EXPECT_EQ(index.Append({PartOf(three.parts[1])}).code(), absl::StatusCode::kInvalidArgument);
  const auto four =
      testing::MakeDocument(bank, {.id = "b", .first_reference = 9, .part_tokens = {8, 8}});
  const std::vector<IndexPart> parts = {PartOf(four.parts[0]), PartOf(four.parts[1])};
  EXPECT_EQ(index.Append(parts).code(), absl::StatusCode::kResourceExhausted);
  index.Publish({1, 2}, {});
  EXPECT_EQ(index.CountVisible(index.sequence()), 2);
  while (index.CompactOnce(index.sequence())) {
  }
  EXPECT_TRUE(index.Append({parts[0]}).ok());  // what was begun of it is free again
}

}  // namespace
}  // namespace msa::memory_node
