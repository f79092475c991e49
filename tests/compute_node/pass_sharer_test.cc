// Oracle: Transformer::Forward of each sequence alone.
#include "compute_node/pass_sharer.h"

#include <atomic>
#include <barrier>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "common/log.h"
#include "compute_node/model/synthetic_model.h"
#include "gtest/gtest.h"
#include "tests/compute_node/tight_backend.h"
#include "tests/support/little_memory.h"

namespace msa::compute_node {
namespace {

constexpr int kSequences = 4;
constexpr int kTop = 3;  // the last layer

// Keeps the queries of its router layers; fails in `fail_at`.
class Watcher : public RoutedHook {
 public:
  explicit Watcher(const Transformer& model) : model_(model), shape_(model.config().Routing()) {}

  absl::Status OnAttentionInputs(int layer, const AttentionInputs& inputs) override {
    return Ask(model_, layer, inputs);
  }
  bool Routes(int layer) const override { return layer >= 2; }
  const RoutingShape& shape() const override { return shape_; }
  absl::Span<const int32_t> query_rows() const override { return rows; }

  absl::Status OnQueries(int layer, std::vector<float> of_layer) override {
    EXPECT_FALSE(running_.exchange(true)) << "one call at a time";
    EXPECT_EQ(layer, calls++);
    EXPECT_EQ(of_layer.size(), Routes(layer) ? rows.size() * shape_.query_width() : 0);
    queries.push_back(std::move(of_layer));
    if (at_layer) at_layer(layer);
    running_ = false;
    return layer == fail_at ? absl::CancelledError("gone") : absl::OkStatus();
  }

  std::vector<int32_t> rows = {0};
  int fail_at = -1;
  int calls = 0;
  std::vector<std::vector<float>> queries;
  std::function<void(int)> at_layer;

 protected:
  const Transformer& model_;
  RoutingShape shape_;

 private:
  std::atomic<bool> running_ = false;
};

// Its bank does not fold heads.
class OtherShape : public Watcher {
 public:
  explicit OtherShape(const Transformer& model) : Watcher(model) { shape_.head = Reduce::kMax; }
};

class PassSharerTest : public ::testing::Test {
 protected:
  struct Sequence {
    explicit Sequence(const Transformer& model)
        : cache(std::make_unique<KvCache>(model.NewCache(8))),
          hook(std::make_unique<Watcher>(model)) {}
    std::vector<int32_t> tokens;
    std::unique_ptr<KvCache> cache;
    std::unique_ptr<Watcher> hook;
    absl::StatusOr<std::vector<float>> hidden;
  };

  void SetUp() override {
    const ModelConfig config = *SyntheticConfig("msa-tiny");
    model_ = *Transformer::Make(
        config, *SyntheticWeights(config, *backend_, kernels::WeightFormat::kFloat32), *backend_);
  }

  SequenceChunk Chunk(const Sequence& sequence) const {
    SequenceChunk chunk;
    chunk.tokens = sequence.tokens;
    chunk.first_position = 3;
    chunk.cache = sequence.cache.get();
    chunk.causal = !some_are_full_ || sequence.tokens.size() % 2 == 0;
    return chunk;
  }

  std::vector<std::unique_ptr<Sequence>> Make() const {
    std::vector<std::unique_ptr<Sequence>> made;
    for (int s = 0; s < kSequences; ++s) {
      made.push_back(std::make_unique<Sequence>(*model_));
      if (s == 1 && shapes_differ_) made.back()->hook = std::make_unique<OtherShape>(*model_);
      for (int i = 0; i < 5 + 7 * s; ++i) made.back()->tokens.push_back(100 + 37 * s + i);
      for (int i = 0; i < 3 + s; ++i) made.back()->hook->rows.push_back(i + 1);
    }
    return made;
  }

  std::vector<SequenceChunk> Chunks(const std::vector<std::unique_ptr<Sequence>>& sequences) const {
    std::vector<SequenceChunk> chunks;
    for (const auto& s : sequences) chunks.push_back(Chunk(*s));
    return chunks;
  }

  // The first pass has one sequence and holds until all the others wait for the next.
  void RunTogether(const std::vector<std::unique_ptr<Sequence>>& sequences, bool hooked) {
    std::vector<std::function<void(PassSharer&)>> calls;
    for (const auto& s : sequences) {
      calls.push_back([this, hooked, &s = *s](PassSharer& sharer) {
        s.hidden = sharer.Forward(Chunk(s), hooked ? s.hook.get() : nullptr);
      });
    }
    RunTogether(calls, hooked);
  }

  void RunTogether(const std::vector<std::function<void(PassSharer&)>>& calls, bool hooked) {
    PassSharer sharer(*model_, /*joins=*/true);
    Sequence blocker(*model_);
    blocker.tokens = {7};
    absl::Notification began, go;
    memory_.before_attend = [&] {
      if (began.HasBeenNotified()) return;
      began.Notify();
      go.WaitForNotification();
    };
    std::thread first([&] {
      blocker.hidden = sharer.Forward(Chunk(blocker), hooked ? blocker.hook.get() : nullptr);
    });
    began.WaitForNotification();
    std::vector<std::thread> threads;
    for (const auto& call : calls) threads.emplace_back([&] { call(sharer); });
    while (sharer.waiting() < calls.size()) std::this_thread::yield();
    if (when_all_wait_) when_all_wait_();
    go.Notify();
    for (std::thread& thread : threads) thread.join();
    first.join();
    memory_.before_attend = nullptr;
    EXPECT_TRUE(blocker.hidden.ok());
  }

  std::vector<std::unique_ptr<Sequence>> RunAlone() const {
    auto sequences = Make();
    memory_.largest = 0;
    for (const auto& s : sequences) {
      const SequenceChunk chunk = Chunk(*s);
      s->hidden = model_->Forward({&chunk, 1}, s->hook.get());
      EXPECT_TRUE(s->hidden.ok());
    }
    return sequences;
  }

  // The rows of a call's sequences, and their caches.
  static void ExpectRows(const absl::StatusOr<std::vector<float>>& hidden,
                         const std::vector<std::unique_ptr<Sequence>>& sequences,
                         const std::vector<std::unique_ptr<Sequence>>& alone) {
    ASSERT_TRUE(hidden.ok()) << hidden.status();
    std::vector<float> expected;
    for (size_t i = 0; i < sequences.size(); ++i) {
      expected.insert(expected.end(), alone[i]->hidden->begin(), alone[i]->hidden->end());
      EXPECT_EQ(sequences[i]->cache->num_tokens(), alone[i]->cache->num_tokens());
    }
    EXPECT_EQ(*hidden, expected);
  }

  static void ExpectSame(const Sequence& sequence, const Sequence& alone) {
    ASSERT_TRUE(sequence.hidden.ok()) << sequence.hidden.status();
    EXPECT_EQ(*sequence.hidden, *alone.hidden);
    EXPECT_EQ(sequence.cache->num_tokens(), alone.cache->num_tokens());
    EXPECT_EQ(sequence.hook->queries, alone.hook->queries);
  }

  const std::unique_ptr<kernels::Backend> reference_ = *kernels::MakeBackend("reference", 1);
  TightBackend memory_{*reference_};
  const kernels::Backend* const backend_ = &memory_;
  std::unique_ptr<Transformer> model_;
  bool shapes_differ_ = true;
  bool some_are_full_ = false;  // those of an odd number of tokens, which all see each other
  std::function<void()> when_all_wait_;
};

TEST_F(PassSharerTest, GivesWhatEachAloneGives) {
  const auto alone = RunAlone();
  for (const bool hooked : {true, false}) {
    const auto together = Make();
    memory_.attended = 0;
    RunTogether(together, hooked);
    EXPECT_EQ(memory_.attended, 2 * (kTop + 1)) << "passes, the first one's included";
    for (int s = 0; s < kSequences; ++s) {
      SCOPED_TRACE(absl::StrCat(s, hooked));
      ASSERT_TRUE(together[s]->hidden.ok()) << together[s]->hidden.status();
      EXPECT_EQ(*together[s]->hidden, *alone[s]->hidden);
      EXPECT_EQ(together[s]->cache->num_tokens(), alone[s]->cache->num_tokens());
      if (!hooked) continue;
      EXPECT_EQ(together[s]->hook->queries, alone[s]->hook->queries);
    }
  }
}

TEST_F(PassSharerTest, SequencesOfOneCallerAreOnePassWherePassesAreJoined) {
  const auto alone = RunAlone();
  for (const bool joins : {true, false}) {
    PassSharer sharer(*model_, joins);
    const auto sequences = Make();
    memory_.attended = 0;
    ExpectRows(sharer.ForwardAll(Chunks(sequences)), sequences, alone);
    EXPECT_EQ(memory_.attended, (joins ? 1 : kSequences) * (kTop + 1)) << joins;
  }
}

TEST_F(PassSharerTest, SequencesOfOneCallerShareOthersPass) {
  const auto alone = RunAlone();
  const auto mine = Make(), others = Make(), another = Make();
  absl::StatusOr<std::vector<float>> of_mine, of_others;
  Sequence& single = *another[1];
  memory_.attended = 0;
  RunTogether({[&](PassSharer& sharer) { of_mine = sharer.ForwardAll(Chunks(mine)); },
               [&](PassSharer& sharer) { single.hidden = sharer.Forward(Chunk(single), nullptr); },
               [&](PassSharer& sharer) { of_others = sharer.ForwardAll(Chunks(others)); }},
              /*hooked=*/false);
  EXPECT_EQ(memory_.attended, 2 * (kTop + 1)) << "passes, the first one's included";
  ExpectRows(of_mine, mine, alone);
  ExpectRows(of_others, others, alone);
  ASSERT_TRUE(single.hidden.ok()) << single.hidden.status();
  EXPECT_EQ(*single.hidden, *alone[1]->hidden);
}

TEST_F(PassSharerTest, AHookHasItsOwnCallersRequestId) {
  const auto together = Make();
  std::vector<std::function<void(PassSharer&)>> calls;
  for (const auto& s : together) {
    const std::string id = absl::StrCat("call-", calls.size());
    s->hook->at_layer = [id](int) { EXPECT_EQ(CurrentRequestId(), id); };
    calls.push_back([this, id, &s = *s](PassSharer& sharer) {
      const ScopedRequestId lines(id);
      s.hidden = sharer.Forward(Chunk(s), s.hook.get());
    });
  }
  RunTogether(calls, /*hooked=*/true);
  for (const auto& s : together) EXPECT_GT(s->hook->calls, 0);
}

TEST_F(PassSharerTest, CausalSequencesAndOthersShareAPass) {
  const auto causal = RunAlone();
  some_are_full_ = true;
  const auto alone = RunAlone();
  const auto together = Make();
  memory_.attended = 0;
  RunTogether(together, /*hooked=*/false);
  EXPECT_EQ(memory_.attended, 2 * (kTop + 1)) << "passes, the first one's included";
  for (int s = 0; s < kSequences; ++s) {
    ASSERT_TRUE(together[s]->hidden.ok()) << together[s]->hidden.status();
    EXPECT_EQ(*together[s]->hidden, *alone[s]->hidden) << s;
    EXPECT_EQ(*together[s]->hidden == *causal[s]->hidden, s % 2 == 1) << s;
  }
}

TEST_F(PassSharerTest, WhereTheTensorsOfOneCallersDoNotFitEachHasItsOwn) {
  const auto alone = RunAlone();
  memory_.most = memory_.largest.load();
  const auto sequences = Make();
  PassSharer sharer(*model_, /*joins=*/true);
  memory_.attended = 0;
  ExpectRows(sharer.ForwardAll(Chunks(sequences)), sequences, alone);
  EXPECT_GT(memory_.refused, 0);
  EXPECT_EQ(memory_.attended, kSequences * (kTop + 1));
}

TEST_F(PassSharerTest, APassTakesPromptsUpToItsTokens) {
  const std::vector<int32_t> third(PassSharer::kMaxTokens / 3), large(PassSharer::kMaxTokens + 1);
  const std::vector<int32_t> one(1), rest(PassSharer::kMaxTokens - 2 * third.size());
  const PassSharer sharer(*model_, /*joins=*/true);
  EXPECT_EQ(sharer.NumAtOnce({third}), 1u);
  EXPECT_EQ(sharer.NumAtOnce({third, third, rest}), 3u);
  EXPECT_EQ(sharer.NumAtOnce({third, third, rest, one}), 3u);
  EXPECT_EQ(sharer.NumAtOnce({large, one}), 1u);
  EXPECT_EQ(sharer.NumAtOnce({one, large, one}), 1u);
  EXPECT_EQ(PassSharer(*model_, /*joins=*/false).NumAtOnce({third, third}), 1u);
}

TEST_F(PassSharerTest, AHooksErrorIsItsSequencesOwn) {
  const auto alone = RunAlone();
  const auto sequences = Make();
  sequences[2]->hook->fail_at = 2;
  RunTogether(sequences, /*hooked=*/true);
  for (int s = 0; s < kSequences; ++s) {
    EXPECT_EQ(sequences[s]->hook->calls, s == 2 ? 3 : kTop + 1);
    if (s != 2) ExpectSame(*sequences[s], *alone[s]);
  }
  EXPECT_TRUE(absl::IsCancelled(sequences[2]->hidden.status()));
}

TEST_F(PassSharerTest, APassOfWhichAllFailedEnds) {
  const auto sequences = Make();
  for (const auto& s : sequences) s->hook->fail_at = 0;
  RunTogether(sequences, /*hooked=*/true);
  for (const auto& s : sequences) {
    EXPECT_TRUE(absl::IsCancelled(s->hidden.status()));
    EXPECT_EQ(s->hook->calls, 1);
  }
}

TEST_F(PassSharerTest, WhereTheTensorsOfAllDoNotFitEachHasItsOwn) {
  const auto alone = RunAlone();
  memory_.most = memory_.largest.load();
  const auto sequences = Make();
  RunTogether(sequences, /*hooked=*/true);
  EXPECT_GT(memory_.refused, 0);
  for (int s = 0; s < kSequences; ++s) ExpectSame(*sequences[s], *alone[s]);
}

TEST_F(PassSharerTest, WhereTheQueriesOfAllDoNotFitEachHasItsOwn) {
  shapes_differ_ = false;
  const auto alone = RunAlone();
  const auto sequences = Make();
  // What projecting the rows of the last, which has most, takes.
  const size_t of_a_row = (model_->config().hidden_size + model_->q_width()) * sizeof(float);
  const size_t room = sequences.back()->hook->rows.size() * of_a_row;
  sequences[0]->hook->at_layer = [&](int layer) {
    if (layer == 1) memory_.all = memory_.in_use + room;
  };
  RunTogether(sequences, /*hooked=*/true);
  EXPECT_GT(memory_.refused, 0);
  for (int s = 0; s < kSequences; ++s) ExpectSame(*sequences[s], *alone[s]);
}

// In a process of its own.
class FewThreadsTest : public PassSharerTest {
 protected:
  // `one`: the stack of a thread that has ended can be had again; that of the first pass, too, if
  // it has ended by then.
  void RunWithoutThreads(bool one) {
    const auto alone = RunAlone();
    const auto sequences = Make();
    memory_.attended = 0;
    std::optional<testing::LittleMemory> little;
    when_all_wait_ = [&] {
      if (one) std::thread([] {}).join();
      little.emplace();
    };
    RunTogether(sequences, /*hooked=*/true);
    little.reset();
    EXPECT_EQ(memory_.attended, (1 + kSequences) * (kTop + 1)) << "a pass each";
    for (int s = 0; s < kSequences; ++s) ExpectSame(*sequences[s], *alone[s]);
  }
};

TEST_F(FewThreadsTest, WhereNotAllHooksGetAThreadEachHasItsOwnPass) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const bool one : {false, true}) {
    const auto child = [&] {
      RunWithoutThreads(one);
      std::exit(HasFailure() ? 1 : 0);
    };
    EXPECT_EXIT(child(), ::testing::ExitedWithCode(0), "") << one;
  }
}

// The hooks of a layer run at once: each waits for all.
TEST_F(PassSharerTest, HooksOfALayerWaitTogether) {
  const auto sequences = Make();
  std::barrier<> all(kSequences);
  for (const auto& s : sequences) {
    s->hook->at_layer = [&all, &s](int layer) {
      if (s->hook->Routes(layer)) all.arrive_and_wait();
    };
  }
  RunTogether(sequences, /*hooked=*/true);
  for (const auto& s : sequences) EXPECT_EQ(s->hook->calls, kTop + 1);
}

// Whoever leads, in whatever company, some of whom fail.
TEST_F(PassSharerTest, ManyCallersOfBothKinds) {
  const auto alone = RunAlone();
  PassSharer sharer(*model_, /*joins=*/true);
  constexpr int kThreads = 8, kCalls = 8;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        SCOPED_TRACE(absl::StrCat(t, " ", i));
        const auto made = Make();
        Sequence& s = *made[(t + i) % kSequences];
        const bool hooked = (t + i / 2) % 3 != 0;
        if (hooked && i % 4 == 3) s.hook->fail_at = t % (kTop + 1);
        s.hidden = sharer.Forward(Chunk(s), hooked ? s.hook.get() : nullptr);
        if (s.hook->fail_at >= 0) {
          EXPECT_TRUE(absl::IsCancelled(s.hidden.status()));
          continue;
        }
        ASSERT_TRUE(s.hidden.ok()) << s.hidden.status();
        EXPECT_EQ(*s.hidden, *alone[(t + i) % kSequences]->hidden);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace msa::compute_node
