#include "compute_node/decoding.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "compute_node/model/synthetic_model.h"
#include "gtest/gtest.h"
#include "tests/compute_node/tight_backend.h"

namespace msa::compute_node {
namespace {

TEST(MarginTest, IsOverTheLargestOther) {
  EXPECT_EQ(Margin({1, 4, 2.5}, 1), 1.5f);
  EXPECT_EQ(Margin({1, 4, 2.5}, 0), -3.0f);
  EXPECT_EQ(Margin({4, 4}, 0), 0.0f);
}

TEST(ExcessTest, IsOfTheOthersTogetherOverTheLargestOfThem) {
  EXPECT_NEAR(Excess({1, 4, 4}, 0), std::log(2.0), 1e-6);
  EXPECT_NEAR(Excess({1, 4, 4}, 1), std::log(1 + std::exp(-3.0)), 1e-6);
  EXPECT_EQ(Excess({1, 4}, 0), 0.0f);
  EXPECT_NEAR(Excess({0, 1000, 1000, -1000}, 0), std::log(2.0), 1e-6);
}

TEST(LeastRefusedTest, IsTheSmallestMarginWhereverItStands) {
  EXPECT_EQ(LeastRefused({-1, 2, -3, 5}, 0), 2u);
  EXPECT_EQ(LeastRefused({-1, -4, -3, 5}, 0), 1u);
  EXPECT_EQ(LeastRefused({-1, 2, -3, -3.5f}, 0), 3u);
  EXPECT_EQ(LeastRefused({-1}, 99), 0u);
}

TEST(LeastRefusedTest, AllTogetherHaveToBeSoByMore) {
  EXPECT_EQ(LeastRefused({-4, 2, -3}, 0.5f), 0u);
  EXPECT_EQ(LeastRefused({-4, 2, -3}, 1.5f), 2u);
  EXPECT_EQ(LeastRefused({-4, 2, -5}, -1.5f), 0u);
}

TEST(LeastRefusedTest, OfEqualsAnEarlierOne) {
  EXPECT_EQ(LeastRefused({-4, -3, -3}, 1), 0u);
  EXPECT_EQ(LeastRefused({0, -3, -3}, 1), 1u);
}

TEST(LeastRefusedTest, WhatIsNoNumberIsNotTaken) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(LeastRefused({1, nan, -3, nan}, 0), 2u);
  EXPECT_EQ(LeastRefused({1, nan}, 0), 0u);
}

// Oracle: each prompt fed by itself, one after the other.
class FeedLeastRefusedTest : public ::testing::Test {
 protected:
  static constexpr int kLayers = 4;
  static constexpr int32_t kRoom = 64;
  static constexpr int32_t kRefusal = 11;

  struct Alone {
    std::vector<Prefill> states;
    std::vector<float> margins;
  };

  void SetUp() override {
    const ModelConfig config = *SyntheticConfig("msa-tiny");
    model_ = *Transformer::Make(
        config, *SyntheticWeights(config, memory_, kernels::WeightFormat::kFloat32), memory_);
    ASSERT_EQ(config.num_layers, kLayers);
    tokenizer_ =
        *Tokenizer::Load(std::string(MSA_SOURCE_DIR) + "/tests/golden/tokenizers/qwen_small.json");
    steps_ = std::make_unique<StepBatcher>(*model_);
    SetJoins(true);
  }

  void SetJoins(bool joins, size_t max_tokens = PassSharer::kMaxTokens) {
    passes_ = std::make_unique<PassSharer>(*model_, joins, max_tokens);
    decoder_ = std::make_unique<Decoder>(*model_, *tokenizer_, *passes_, *steps_, sampler_);
  }

  // Of 7, 10, 13, 16 and 19 tokens.
  static std::vector<std::vector<int32_t>> Prompts() {
    std::vector<std::vector<int32_t>> prompts(5);
    for (int p = 0; p < 5; ++p) {
      for (int i = 0; i < 7 + 3 * p; ++i) prompts[p].push_back(100 + 37 * p + 5 * i);
    }
    return prompts;
  }

  Alone FeedEach(const std::vector<std::vector<int32_t>>& prompts) {
    Alone alone;
    for (const std::vector<int32_t>& ids : prompts) {
      Prefill state;
      const auto size = static_cast<int64_t>(ids.size());
      state.cache = std::make_unique<KvCache>(model_->NewCache(size + kRoom));
      EXPECT_TRUE(decoder_->Feed(state, ids, causal_).ok());
      alone.margins.push_back(*decoder_->NextMargin(state, kRefusal));
      alone.states.push_back(std::move(state));
    }
    return alone;
  }

  absl::StatusOr<TakenReading> FeedAll(const std::vector<std::vector<int32_t>>& prompts,
                                       float apart_margin, int32_t room = kRoom) {
    memory_.attended = 0;
    return decoder_->FeedLeastRefused(ctx_, prompts, causal_, room, kRefusal, apart_margin);
  }

  size_t Bytes(const KvCache& cache) const {
    return 2 * kLayers * cache.capacity() * model_->kv_width() * DTypeBytes(cache.dtype());
  }

  int passes() const { return memory_.attended / kLayers; }

  // The state, and what is decoded from it.
  void ExpectTaken(absl::StatusOr<TakenReading> taken, size_t index, Alone& alone) {
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(taken->index, index);
    Prefill& expected = alone.states[index];
    EXPECT_EQ(taken->state.last_hidden, expected.last_hidden);
    EXPECT_EQ(taken->state.next_position, expected.next_position);
    EXPECT_EQ(taken->state.cache->num_tokens(), expected.cache->num_tokens());
    EXPECT_EQ(taken->state.cache->capacity(), expected.cache->capacity());
    EXPECT_EQ(steps_->Feed(taken->state, 5, true)->logits, steps_->Feed(expected, 5, true)->logits);
  }

  const std::unique_ptr<kernels::Backend> reference_ = *kernels::MakeBackend("reference", 1);
  TightBackend memory_{*reference_};
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<StepBatcher> steps_;
  Sampler sampler_{0, 0};
  std::unique_ptr<PassSharer> passes_;
  std::unique_ptr<Decoder> decoder_;
  rpc::CallContext ctx_;
  bool causal_ = true;  // what the prompts are
};

TEST_F(FeedLeastRefusedTest, TakesWhatOneAfterTheOtherGivesInOnePass) {
  const auto prompts = Prompts();
  for (const bool joins : {true, false}) {
    SetJoins(joins);
    for (const float apart_margin : {-1e6f, 0.0f, 1e6f}) {
      Alone alone = FeedEach(prompts);
      const size_t least = LeastRefused(alone.margins, apart_margin);
      if (apart_margin != 0) {
        ASSERT_EQ(least == 0, apart_margin < 0);
      }
      auto taken = FeedAll(prompts, apart_margin);
      EXPECT_EQ(passes(), joins ? 1 : 5);
      ExpectTaken(std::move(taken), least, alone);
    }
  }
}

TEST_F(FeedLeastRefusedTest, MoreThanAPassHoldsAreSeveral) {
  const auto prompts = Prompts();
  for (const auto& [max_tokens, expected] : {std::pair{65, 1}, {64, 2}, {46, 2}, {29, 3}, {1, 5}}) {
    SetJoins(true, max_tokens);
    for (const float apart_margin : {-1e6f, 1e6f}) {
      Alone alone = FeedEach(prompts);
      auto taken = FeedAll(prompts, apart_margin);
      EXPECT_EQ(passes(), expected) << max_tokens;
      ExpectTaken(std::move(taken), LeastRefused(alone.margins, apart_margin), alone);
    }
  }
}

TEST_F(FeedLeastRefusedTest, OfPromptsThatSeeAllOfThemselvesTakesWhatEachAloneGives) {
  const auto prompts = Prompts();
  const Alone causal = FeedEach(prompts);
  causal_ = false;
  // As many passes as of causal ones: all, several, and each by itself.
  for (const auto& [joins, max_tokens, expected] :
       {std::tuple{true, 65, 1}, {true, 29, 3}, {true, 1, 5}, {false, 65, 5}}) {
    SetJoins(joins, max_tokens);
    for (const float apart_margin : {-1e6f, 1e6f}) {
      Alone alone = FeedEach(prompts);
      for (size_t i = 0; i < prompts.size(); ++i) {
        EXPECT_NE(alone.margins[i], causal.margins[i]) << i;
      }
      const size_t least = LeastRefused(alone.margins, apart_margin);
      ASSERT_EQ(least == 0, apart_margin < 0);
      auto taken = FeedAll(prompts, apart_margin);
      EXPECT_EQ(passes(), expected) << joins << max_tokens;
      ASSERT_TRUE(taken.ok()) << taken.status();
      EXPECT_EQ(*decoder_->NextMargin(taken->state, kRefusal), alone.margins[least]);
      ExpectTaken(std::move(taken), least, alone);
    }
  }
}

// Oracle: what was written, fed behind the prompt in one step with a causal mask.
TEST_F(FeedLeastRefusedTest, BehindAPromptThatSeesAllOfItselfTextIsCausal) {
  const std::vector<std::vector<int32_t>> prompts = {Prompts()[3]};
  DecodeOptions options;
  options.max_new_tokens = 12;
  auto causal = FeedAll(prompts, 0);
  ASSERT_TRUE(causal.ok()) << causal.status();
  const auto of_causal = decoder_->Decode(ctx_, causal->state, options);
  causal_ = false;
  auto taken = FeedAll(prompts, 0);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const auto written = decoder_->Decode(ctx_, taken->state, options);
  ASSERT_TRUE(written.ok()) << written.status();
  ASSERT_EQ(written->ids.size(), 12u);
  EXPECT_NE(written->ids, of_causal->ids);

  Alone alone = FeedEach({prompts[0], prompts[0], prompts[0]});
  const auto one_by_one = decoder_->Decode(ctx_, alone.states[0], options);
  EXPECT_EQ(one_by_one->ids, written->ids);
  EXPECT_EQ(one_by_one->text, written->text);
  ASSERT_TRUE(decoder_->Feed(alone.states[1], written->ids, /*causal=*/true).ok());
  ASSERT_TRUE(decoder_->Feed(alone.states[2], written->ids, /*causal=*/false).ok());
  const std::vector<float> logits = steps_->Feed(taken->state, 5, true)->logits;
  EXPECT_EQ(logits, steps_->Feed(alone.states[1], 5, true)->logits);
  EXPECT_NE(logits, steps_->Feed(alone.states[2], 5, true)->logits);
}

TEST_F(FeedLeastRefusedTest, OnlyTheTakenReadingsCacheStays) {
  const auto prompts = Prompts();
  const size_t before = memory_.in_use;
  const auto taken = FeedAll(prompts, 1e6f);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(memory_.in_use - before, Bytes(*taken->state.cache));
}

TEST_F(FeedLeastRefusedTest, RoomForALongAnswerIsMadeInTheTakenReading) {
  const auto prompts = Prompts();
  constexpr int32_t kLong = 4 * Decoder::kReadingRoom;
  size_t most = 0;
  memory_.before_attend = [&] { most = std::max<size_t>(most, memory_.in_use); };
  const size_t before = memory_.in_use;
  auto taken = FeedAll(prompts, 1e6f, kLong);
  ASSERT_TRUE(taken.ok()) << taken.status();
  const KvCache& cache = *taken->state.cache;
  EXPECT_GE(cache.capacity() - cache.num_tokens(), kLong);
  EXPECT_LT(most - before, 2 * Bytes(cache));  // five of kReadingRoom, not of kLong
  // Not in a step, where all who decode would want it.
  memory_.most = Bytes(cache) / kLayers;  // twice a layer's K
  EXPECT_TRUE(absl::IsResourceExhausted(FeedAll(prompts, 1e6f, 3 * kLong).status()));
}

TEST_F(FeedLeastRefusedTest, WhereTheCachesOfAllDoNotFitOneIsReadAfterTheOther) {
  const auto prompts = Prompts();
  const size_t before = memory_.in_use;
  size_t most = 0;
  memory_.before_attend = [&] { most = std::max<size_t>(most, memory_.in_use); };
  const size_t largest = Bytes(*FeedEach({prompts.back()}).states[0].cache);
  memory_.before_attend = nullptr;
  ASSERT_EQ(memory_.in_use, before);
  // For one pass beside the reading that is taken so far.
  memory_.all = most + largest;
  auto taken = FeedAll(prompts, 1e6f);
  EXPECT_GT(memory_.refused, 0);
  EXPECT_EQ(passes(), 5);
  memory_.all = SIZE_MAX;
  Alone alone = FeedEach(prompts);
  size_t of_all = 0;
  for (const Prefill& state : alone.states) of_all += Bytes(*state.cache);
  EXPECT_GT(of_all, most + largest - before);
  ExpectTaken(std::move(taken), LeastRefused(alone.margins, 1e6f), alone);
}

TEST_F(FeedLeastRefusedTest, WhoLeavesIsWorkedForUntilThePassEnds) {
  bool gone = false;
  ctx_.cancelled = [&] { return gone; };
  memory_.before_attend = [&] { gone = true; };
  SetJoins(true, 46);
  const auto prompts = Prompts();
  EXPECT_TRUE(absl::IsCancelled(FeedAll(prompts, 1).status()));
  EXPECT_EQ(passes(), 1);
  ctx_ = {};
  ctx_.deadline = absl::InfinitePast();
  EXPECT_TRUE(absl::IsDeadlineExceeded(FeedAll(prompts, 1).status()));
  EXPECT_EQ(passes(), 0);
}

// Fails when it is asked for logits, and leaves them as they were.
class FailingHead : public kernels::ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;
  absl::Status Health() const override {
    return failed ? absl::UnavailableError("GPU 0 failed") : absl::OkStatus();
  }
  void Linear(const kernels::LinearWeights& w, const float* x, int64_t rows, const float* bias,
              float* y) const override {
    failed = failed || w.out_features() == fails_at;
    if (!failed) ForwardingBackend::Linear(w, x, rows, bias, y);
  }
  void FusedLinear(const kernels::LinearWeights& w,
                   const kernels::LinearArgs& args) const override {
    failed = failed || w.out_features() == fails_at;
    if (!failed) ForwardingBackend::FusedLinear(w, args);
  }

  int64_t fails_at = -1;
  mutable bool failed = false;
};

class GreedyDecodeTest : public ::testing::Test {
 protected:
  Prefill FedPrompt() {
    Prefill state;
    state.cache = std::make_unique<KvCache>(model_->NewCache(64));
    EXPECT_TRUE(decoder_.Feed(state, {3, 1, 4, 1, 5}, /*causal=*/true).ok());
    return state;
  }

  const std::unique_ptr<kernels::Backend> backend_ = *kernels::MakeBackend("reference", 1);
  const ModelConfig config_ = *SyntheticConfig("msa-tiny");
  const std::unique_ptr<Transformer> model_ = *Transformer::Make(
      config_, *SyntheticWeights(config_, *backend_, kernels::WeightFormat::kFloat32), *backend_);
  const std::unique_ptr<Tokenizer> tokenizer_ =
      *Tokenizer::Load(std::string(MSA_SOURCE_DIR) + "/tests/golden/tokenizers/qwen_small.json");
  StepBatcher steps_{*model_};
  PassSharer passes_{*model_, /*joins=*/false};
  Sampler sampler_{0.0f, 7};
  Decoder decoder_{*model_, *tokenizer_, passes_, steps_, sampler_};
};

TEST_F(GreedyDecodeTest, StopsBeforeTheStepAfterTheClientLeft) {
  Prefill state = FedPrompt();
  int tokens = 0;
  rpc::CallContext ctx;
  ctx.cancelled = [&] { return tokens == 3; };
  DecodeOptions options;
  options.max_new_tokens = 32;
  options.stop = [&](std::string_view) {  // once a token
    ++tokens;
    return false;
  };
  EXPECT_TRUE(absl::IsCancelled(decoder_.Decode(ctx, state, options).status()));
  EXPECT_EQ(tokens, 3);
}

// Oracle: the token's probability, by softmax in double precision.
TEST_F(GreedyDecodeTest, AFirstTokenAgainstAllIsTakenByItsLogOdds) {
  constexpr int32_t kToken = 11;
  const auto begins_with_it = [&](float added) {
    Prefill state = FedPrompt();
    DecodeOptions options;
    options.max_new_tokens = 1;
    options.first = TokenBias{kToken, added, /*against_all=*/true};
    return decoder_.Decode({}, state, options)->ids == std::vector<int32_t>{kToken};
  };
  const std::vector<float> logits = *model_->Logits(FedPrompt().last_hidden);
  double others = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != kToken) others += std::exp(static_cast<double>(logits[i]));
  }
  const double odds = logits[kToken] - std::log(others);
  ASSERT_GT(Excess(logits, kToken), 0.1f);  // which tells it from the largest alone
  EXPECT_TRUE(begins_with_it(static_cast<float>(-odds + 0.01)));
  EXPECT_FALSE(begins_with_it(static_cast<float>(-odds - 0.01)));
}

TEST(DecodeTest, OfADeviceThatFailedNoTokenIsWritten) {
  const auto reference = *kernels::MakeBackend("reference", 1);
  FailingHead backend(*reference);
  const ModelConfig config = *SyntheticConfig("msa-tiny");
  const auto model = *Transformer::Make(
      config, *SyntheticWeights(config, backend, kernels::WeightFormat::kFloat32), backend);
  const auto tokenizer =
      *Tokenizer::Load(std::string(MSA_SOURCE_DIR) + "/tests/golden/tokenizers/qwen_small.json");
  StepBatcher steps(*model);
  PassSharer passes(*model, /*joins=*/false);
  const std::vector<int32_t> prompt = {3, 1, 4, 1, 5};
  for (const float temperature : {0.0f, 1.0f}) {
    for (const float added : {0.0f, -1.0f}) {
      for (const bool later : {false, true}) {
        Sampler sampler(temperature, 7);
        Decoder decoder(*model, *tokenizer, passes, steps, sampler);
        Prefill state;
        state.cache = std::make_unique<KvCache>(model->NewCache(64));
        ASSERT_TRUE(decoder.Feed(state, prompt, /*causal=*/true).ok());
        const auto fail = [&] { backend.fails_at = config.vocab_size; };
        if (!later) fail();
        int written = 0;
        DecodeOptions options;
        options.max_new_tokens = 8;
        options.first = TokenBias{11, added};
        // The text of one token may wait for the next.
        options.stop = [&](std::string_view) {
          fail();
          return false;
        };
        options.on_text = [&](const std::string&) { return ++written > 0; };
        const auto answer = decoder.Decode({}, state, options);
        EXPECT_TRUE(absl::IsUnavailable(answer.status())) << temperature << ' ' << added;
        EXPECT_LE(written, later ? 1 : 0) << temperature << ' ' << added;
        if (!later) {
          EXPECT_FALSE(decoder.NextMargin(state, 11).ok());
        }
        backend.failed = false;
        backend.fails_at = -1;
      }
    }
  }
}

TEST_F(FeedLeastRefusedTest, AStepThatFindsNoRoomForOneSessionIsTheOthersStep) {
  const auto prompts = Prompts();
  Alone alone = FeedEach({prompts[0], prompts[1]});
  Prefill full;
  full.cache = std::make_unique<KvCache>(model_->NewCache(static_cast<int64_t>(prompts[2].size())));
  ASSERT_TRUE(decoder_->Feed(full, prompts[2], /*causal=*/true).ok());
  ASSERT_TRUE(steps_->Feed(alone.states[0], 5, true).ok());  // has its memory
  memory_.most = Bytes(*full.cache) / (2 * kLayers);         // no layer's K grows
  // While one steps the others come: they would be the next batch.
  absl::Notification stepping;
  memory_.before_embed = [&] {
    if (stepping.HasBeenNotified()) return;
    stepping.Notify();
    while (steps_->batcher().waiting() + (memory_.refused > 0 ? 1 : 0) < 2) {
      std::this_thread::yield();
    }
  };
  absl::Status first, second, refused;
  std::thread leads([&] { first = steps_->Feed(alone.states[0], 6, true).status(); });
  stepping.WaitForNotification();
  std::thread fits([&] { second = steps_->Feed(alone.states[1], 6, true).status(); });
  std::thread lacks([&] { refused = steps_->Feed(full, 6, true).status(); });
  for (std::thread* thread : {&leads, &fits, &lacks}) thread->join();
  EXPECT_TRUE(first.ok()) << first;
  EXPECT_TRUE(second.ok()) << second;
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
}

// What is kept from step to step is made for four where three decode.
TEST_F(FeedLeastRefusedTest, AStepWithoutRoomForWhatIsKeptIsAForwardPass) {
  auto prompts = Prompts();
  prompts.resize(3);
  Alone expected = FeedEach(prompts), alone = FeedEach(prompts);
  const auto step = [&](Alone& sessions, std::vector<float>* logits) {
    const int32_t token = 5;
    std::vector<SequenceChunk> sequences(prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i) {
      sequences[i].tokens = absl::MakeConstSpan(&token, 1);
      sequences[i].first_position = sessions.states[i].next_position++;
      sequences[i].cache = sessions.states[i].cache.get();
    }
    return model_->NextTokens(sequences, logits);
  };
  memory_.most = 4 * model_->config().vocab_size * sizeof(float) - 1;
  std::vector<float> logits, expected_logits;
  const auto tokens = step(alone, &logits);
  EXPECT_GT(memory_.refused, 0);
  memory_.most = SIZE_MAX;
  const auto expected_tokens = step(expected, &expected_logits);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(*tokens, *expected_tokens);
  EXPECT_EQ(logits, expected_logits);
  // The steps go on from it.
  EXPECT_EQ(*step(alone, nullptr), *step(expected, nullptr));
}

TEST_F(FeedLeastRefusedTest, APromptThatDoesNotFitAloneIsAnError) {
  memory_.all = memory_.in_use + 1;
  EXPECT_TRUE(absl::IsResourceExhausted(FeedAll(Prompts(), 1).status()));
}

}  // namespace
}  // namespace msa::compute_node
