// The contract of DecodeSteps: steps of a batch, recorded and not, give what the plain operations
// give sequence by sequence, whoever joins or leaves in between.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/decode_steps.h"
#include "tests/kernels/backend_fixture.h"
#include "tests/kernels/oracle.h"
#include "tests/support/tolerances.h"

namespace msa::kernels {
namespace {

using ::msa::testing::BackendTest;
using ::msa::testing::RandomFloats;
using ::msa::testing::Tolerances;

constexpr DecodeShape kShape = {/*num_layers=*/2, /*num_q_heads=*/8, /*num_kv_heads=*/2,
                                /*head_dim=*/64, /*scale=*/0.125f};
constexpr int64_t kQueryWidth = 8 * 64;
constexpr int64_t kKeyWidth = 2 * 64;
constexpr int64_t kQkvWidth = kQueryWidth + 2 * kKeyWidth;
constexpr int64_t kCapacity = 700;  // several splits
constexpr int64_t kVocab = 50;
constexpr int kMaxSequences = 3;

class DecodeStepsTest : public BackendTest {
 protected:
  // A sequence's memory: rows of its own before the first step and, in layer 1, blocks.
  struct Sequence {
    Buffer k[2], v[2];
    std::vector<Buffer> block_parts;
    std::vector<KvView> blocks[2];
    std::vector<DecodeLayer> layers;
    int64_t num_tokens = 0;
  };

  void SetUp() override {
    // Models of rounded weights attend in bfloat16: on some devices by other kernels.
    if (half_) {
      const std::vector<float> w(64, 1.0f);
      half_weights_ = *backend_->PackLinear(w.data(), 8, 8, WeightFormat::kBFloat16);
    }
    auto steps = backend_->MakeDecodeSteps(kShape, kMaxSequences);
    ASSERT_TRUE(steps.ok()) << steps.status();
    steps_ = *std::move(steps);
    qkv_ = *backend_->Allocate(kMaxSequences * kQkvWidth * sizeof(float));
    const std::vector<float> frequencies(32, 0.01f);
    frequencies_ = *CopyToBackend(*backend_, frequencies.data(), 32 * sizeof(float));
    const std::vector<float> logits = RandomFloats(kMaxSequences * kVocab, 99);
    logits_ = *CopyToBackend(*backend_, logits.data(), logits.size() * sizeof(float));
  }

  DType kv_type() const { return backend_->KvDType(kShape.head_dim); }
  int64_t RowBytes() const { return kKeyWidth * static_cast<int64_t>(DTypeBytes(kv_type())); }

  Buffer Rows(int64_t rows, int64_t room, uint32_t seed) {
    const std::vector<float> x = RandomFloats(rows * kKeyWidth, seed);
    Buffer buffer = *backend_->Allocate(room * RowBytes());
    std::vector<char> stored(rows * RowBytes());
    if (kv_type() == DType::kFloat32) {
      std::memcpy(stored.data(), x.data(), stored.size());
    } else {
      backend_->Quantize(x.data(), rows, kKeyWidth, kv_type(), stored.data(), nullptr);
    }
    backend_->Copy(buffer.data(), stored.data(), stored.size());
    return buffer;
  }

  // Rows of a document in the backend's memory, as a bank of this precision holds them.
  KvView Block(DType dtype, int64_t tokens, uint32_t seed, Sequence& s) {
    const int64_t heads = tokens * kShape.num_kv_heads;
    KvView view = {.dtype = dtype, .num_tokens = tokens};
    for (const bool is_k : {true, false}) {
      const std::vector<float> x = RandomFloats(tokens * kKeyWidth, seed + is_k);
      std::vector<char> stored(x.size() * DTypeBytes(dtype));
      std::vector<float> scales(heads);
      backend_->Quantize(x.data(), heads, kShape.head_dim, dtype, stored.data(), scales.data());
      s.block_parts.push_back(*CopyToBackend(*backend_, stored.data(), stored.size()));
      (is_k ? view.k : view.v) = s.block_parts.back().data();
      if (!HasScales(dtype)) continue;
      s.block_parts.push_back(*CopyToBackend(*backend_, scales.data(), heads * sizeof(float)));
      (is_k ? view.k_scales : view.v_scales) = s.block_parts.back().as<float>();
    }
    return view;
  }

  std::unique_ptr<Sequence> NewSequence(int64_t num_tokens, int64_t block_tokens, uint32_t seed) {
    auto s = std::make_unique<Sequence>();
    s->num_tokens = num_tokens;
    for (int layer = 0; layer < 2; ++layer) {
      s->k[layer] = Rows(num_tokens, kCapacity, seed + 10 + layer);
      s->v[layer] = Rows(num_tokens, kCapacity, seed + 20 + layer);
    }
    if (block_tokens > 0) {
      for (const DType dtype : {kv_type(), DType::kInt8, DType::kFloat8}) {
        s->blocks[1].push_back(Block(dtype, block_tokens, seed + 30, *s));
      }
    }
    for (int layer = 0; layer < 2; ++layer) {
      s->layers.push_back({s->blocks[layer], s->k[layer].data(), s->v[layer].data()});
    }
    return s;
  }

  void SetSequences(const std::vector<Sequence*>& sequences) {
    std::vector<DecodeSequence> prepared;
    for (const Sequence* s : sequences) prepared.push_back({s->layers, kCapacity});
    ASSERT_TRUE(steps_->SetSequences(prepared).ok());
  }

  SplitQkvArgs Qkv(int64_t rows, const int32_t* positions) const {
    SplitQkvArgs args;
    args.qkv = qkv_.as<float>();
    args.rows = rows;
    args.num_q_heads = kShape.num_q_heads;
    args.num_kv_heads = kShape.num_kv_heads;
    args.head_dim = kShape.head_dim;
    args.positions = {positions, static_cast<size_t>(rows)};
    args.inv_freq = frequencies_.as<float>();
    return args;
  }

  // One step by `recording`, which leaves layer 1's attention in out_.
  void Step(Recording& recording, const std::vector<Sequence*>& sequences, uint32_t seed) {
    const auto rows = static_cast<int64_t>(sequences.size());
    input_ = RandomFloats(rows * kQkvWidth, seed);
    backend_->Copy(qkv_.data(), input_.data(), input_.size() * sizeof(float));
    std::vector<DecodeInput> inputs;
    for (const Sequence* s : sequences) {
      inputs.push_back({static_cast<int32_t>(inputs.size()),
                        static_cast<int32_t>(s->num_tokens + 5), s->num_tokens});
    }
    steps_->SetInputs(inputs);
    recording.Run();
    const auto tokens = steps_->Tokens(rows);
    const std::vector<float> logits = RandomFloats(kMaxSequences * kVocab, 99);
    for (int64_t r = 0; r < rows; ++r) {
      const auto begin = logits.begin() + r * kVocab;
      EXPECT_EQ(tokens[r], std::max_element(begin, begin + kVocab) - begin);
    }
    for (Sequence* s : sequences) ++s->num_tokens;
  }

  // Layer 1 of the last step, one sequence, by the operations that take one step.
  std::vector<float> Expected(const Sequence& s, int64_t row) {
    std::vector<float> q(kQueryWidth), k(kKeyWidth), v(kKeyWidth), out(kQueryWidth);
    const auto position = static_cast<int32_t>(s.num_tokens - 1 + 5);
    SplitQkvArgs args = Qkv(1, &position);
    args.qkv = input_.data() + row * kQkvWidth;
    args.q = q.data();
    args.k = k.data();
    args.v = v.data();
    const std::vector<float> frequencies(32, 0.01f);
    args.inv_freq = frequencies.data();
    backend_->SplitQkv(args);
    AttentionArgs attention;
    attention.q = q.data();
    attention.out = out.data();
    attention.num_queries = 1;
    attention.num_q_heads = kShape.num_q_heads;
    attention.num_kv_heads = kShape.num_kv_heads;
    attention.head_dim = kShape.head_dim;
    attention.scale = kShape.scale;
    attention.blocks = s.blocks[1];
    attention.local = {s.k[1].data(), s.v[1].data(), nullptr, nullptr, kv_type(), s.num_tokens};
    attention.first_visible = s.num_tokens - 1;
    backend_->Attend({&attention, 1});
    return out;
  }

  std::vector<float> Out(int64_t rows) {
    std::vector<float> out(rows * kQueryWidth);
    backend_->Copy(out.data(), attended_, out.size() * sizeof(float));
    return out;
  }

  // Weights in bfloat16 are rounded relative to the largest score of their split, and splits are
  // made for the room there is.
  double tolerance() const { return kv_type() == DType::kFloat32 ? Tolerances::kAttention : 2e-3; }

  void ExpectStep(const std::vector<Sequence*>& sequences) {
    const std::vector<float> out = Out(static_cast<int64_t>(sequences.size()));
    for (size_t r = 0; r < sequences.size(); ++r) {
      const std::vector<float> expected = Expected(*sequences[r], static_cast<int64_t>(r));
      for (int64_t i = 0; i < kQueryWidth; ++i) {
        ASSERT_NEAR(out[r * kQueryWidth + i], expected[i], tolerance())
            << "sequence " << r << " element " << i;
      }
    }
  }

  std::unique_ptr<Recording> Record(int64_t rows) {
    return backend_->Record([this, rows]() {
      steps_->Start(rows);
      for (int layer = 0; layer < 2; ++layer) {
        attended_ = steps_->Attend(layer, Qkv(rows, steps_->positions()));
      }
      steps_->Choose(logits_.as<float>(), rows, kVocab);
    });
  }

  bool half_ = false;
  std::unique_ptr<LinearWeights> half_weights_;
  Buffer qkv_, frequencies_, logits_;
  std::unique_ptr<DecodeSteps> steps_;
  const float* attended_ = nullptr;
  std::vector<float> input_;
};

class HalfDecodeStepsTest : public DecodeStepsTest {
 protected:
  HalfDecodeStepsTest() { half_ = true; }
};

TEST_P(DecodeStepsTest, StepsAreWhatAttendGives) {
  auto a = NewSequence(3, 40, 1), b = NewSequence(600, 0, 2);
  SetSequences({a.get(), b.get()});
  const auto recording = Record(2);
  for (uint32_t step = 0; step < 4; ++step) {  // the first by itself, the second recorded, two more
    SCOPED_TRACE(step);
    Step(*recording, {a.get(), b.get()}, 100 + step);
    ExpectStep({a.get(), b.get()});
  }
  EXPECT_TRUE(backend_->Health().ok()) << backend_->Health();
}

TEST_P(HalfDecodeStepsTest, StepsAreWhatAttendGives) {
  auto a = NewSequence(3, 40, 1), b = NewSequence(600, 0, 2);
  SetSequences({a.get(), b.get()});
  const auto recording = Record(2);
  for (uint32_t step = 0; step < 4; ++step) {
    SCOPED_TRACE(step);
    Step(*recording, {a.get(), b.get()}, 100 + step);
    ExpectStep({a.get(), b.get()});
  }
  EXPECT_TRUE(backend_->Health().ok()) << backend_->Health();
}

TEST_P(HalfDecodeStepsTest, RecordingsOutliveTheirSequences) {
  auto a = NewSequence(100, 40, 1), b = NewSequence(5, 0, 2), c = NewSequence(650, 9, 3);
  const auto two = Record(2);
  const auto three = Record(3);
  uint32_t seed = 200;
  for (int round = 0; round < 3; ++round) {
    SetSequences({a.get(), b.get()});
    Step(*two, {a.get(), b.get()}, ++seed);
    ExpectStep({a.get(), b.get()});
    SetSequences({c.get(), a.get(), b.get()});
    Step(*three, {c.get(), a.get(), b.get()}, ++seed);
    ExpectStep({c.get(), a.get(), b.get()});
    SetSequences({b.get(), c.get()});
    Step(*two, {b.get(), c.get()}, ++seed);
    ExpectStep({b.get(), c.get()});
  }
}

TEST_P(HalfDecodeStepsTest, ASequenceDoesNotKnowTheOthers) {
  const auto alone = Record(1);
  const auto together = Record(3);
  auto a = NewSequence(300, 40, 1);
  SetSequences({a.get()});
  Step(*alone, {a.get()}, 7);
  const std::vector<float> by_itself = Out(1);
  auto again = NewSequence(300, 40, 1), b = NewSequence(5, 0, 2), c = NewSequence(650, 9, 3);
  SetSequences({again.get(), b.get(), c.get()});
  Step(*together, {again.get(), b.get(), c.get()}, 7);
  const std::vector<float> among_others = Out(3);
  for (int64_t i = 0; i < kQueryWidth; ++i) ASSERT_EQ(by_itself[i], among_others[i]) << i;
}

MSA_ON_EVERY_BACKEND(DecodeStepsTest);
MSA_ON_EVERY_BACKEND(HalfDecodeStepsTest);

}  // namespace
}  // namespace msa::kernels
