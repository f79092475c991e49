// Attention kernels against a double-precision oracle: grouped heads, blocks of mixed precision,
// causal and full masks, decode and prefill, splits, empty states, extreme scores, NaN, graphs.
#include "tests/gpu/attention_sequence.h"

namespace msa::kernels::cuda {
namespace {

using ::msa::testing::Expect;

constexpr float kNan = NAN;

AttentionShape ShapeOf(const Sequence& sequence, AttentionPrecision precision) {
  return {sequence.shape().num_q_heads, sequence.shape().num_kv_heads, sequence.shape().head_dim,
          sequence.scale, precision};
}

bool g_hopper = false;

// A plan on the device.
struct Ready {
  AttentionPlan plan;
  DeviceBuffer<uint8_t> table;
  DeviceBuffer<uint8_t> workspace;

  Ready(const AttentionShape& shape, const std::vector<AttentionInput>& inputs,
        AttentionOptions options)
      : plan(PlanAttention(shape, inputs, WithHopper(options))),
        table(plan.table),
        workspace(plan.launch.workspace_bytes) {}

  static AttentionOptions WithHopper(AttentionOptions options) {
    options.hopper = g_hopper;
    return options;
  }
  void Launch(cudaStream_t stream = nullptr) {
    CUDA_OK(LaunchAttention(plan.launch, table.get(), workspace.get(), stream));
  }
};

void Run(const std::vector<Sequence*>& sequences, AttentionPrecision precision,
         AttentionOptions options = {}) {
  std::vector<AttentionInput> inputs;
  for (Sequence* sequence : sequences) {
    sequence->out().Poison();
    inputs.push_back(sequence->input());
  }
  Ready ready(ShapeOf(*sequences[0], precision), inputs, options);
  ready.Launch();
  CUDA_OK(cudaDeviceSynchronize());
  Expect(ready.workspace.GuardIsWhole(), "workspace guard");
  for (Sequence* sequence : sequences) Expect(sequence->out().GuardIsWhole(), "output guard");
}

double g_worst[2] = {0, 0};

void ExpectMatches(Sequence& sequence, AttentionPrecision precision, const std::string& what) {
  const std::vector<float> out = sequence.out().ToHost();
  const std::vector<double> expected = sequence.Expected();
  const bool exact = precision == AttentionPrecision::kFloat32;
  // float32: tests/support/tolerances.h kAttention. bfloat16: 2^-9 in q, in weights, in f32 rows.
  const double tolerance = exact ? 1e-5 : 2.5e-2;
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    if (std::isnan(expected[i]) != std::isnan(out[i])) {
      Expect(false, what + ": NaN at element " + std::to_string(i) +
                        (std::isnan(out[i]) ? " is" : " is not"));
      return;
    }
    if (std::isnan(expected[i])) continue;
    if (std::isinf(expected[i])) {
      Expect(out[i] == expected[i], what + ": infinity at element " + std::to_string(i));
      continue;
    }
    const double difference = out[i] - expected[i];
    if (!(std::fabs(difference) <= tolerance * std::max(1.0, std::fabs(expected[i])))) {
      Expect(false, what + ": element " + std::to_string(i) + " is " + std::to_string(out[i]) +
                        ", not " + std::to_string(expected[i]));
      return;
    }
    error += difference * difference;
    norm += expected[i] * expected[i];
  }
  const double relative = norm > 0 ? std::sqrt(error / norm) : 0;
  g_worst[exact ? 0 : 1] = std::max(g_worst[exact ? 0 : 1], relative);
  Expect(relative <= (exact ? 2e-6 : 8e-3), what + ": relative error " + std::to_string(relative));
}

void Check(const std::vector<Sequence*>& sequences, AttentionPrecision precision,
           const std::string& what, AttentionOptions options = {}) {
  Run(sequences, precision, options);
  for (size_t i = 0; i < sequences.size(); ++i) {
    ExpectMatches(*sequences[i], precision, what + " sequence " + std::to_string(i));
  }
}

constexpr AttentionPrecision kPrecisions[] = {AttentionPrecision::kFloat32,
                                              AttentionPrecision::kBFloat16};

std::string Name(AttentionPrecision p) {
  return p == AttentionPrecision::kFloat32 ? "f32" : "bf16";
}

void TestByHand() {
  // Scores ln 1 and ln 3 (scale 1): weights 1/4 and 3/4 of the values 4 and 8.
  Sequence s(1, {1, 1, 1}, {}, {2, kF32}, 1);
  s.scale = 1.0f;
  DeviceBuffer<float> q(std::vector<float>{1.0f});
  s.input().q = q.get();
  const std::vector<float> k = {0.0f, std::log(3.0f)};
  const std::vector<float> v = {4.0f, 8.0f};
  for (int t = 0; t < 2; ++t) {
    s.SetElement(s.k(0), t, 0, 0, kF32, k[t]);
    s.SetElement(s.v(0), t, 0, 0, kF32, v[t]);
  }
  const auto run = [&](int64_t first_visible, bool causal) {
    s.input().first_visible = first_visible;
    s.input().causal = causal;
    Run({&s}, AttentionPrecision::kFloat32);
    return s.out().ToHost()[0];
  };
  Expect(std::fabs(run(1, true) - 7) < 1e-6, "by hand: both");
  Expect(std::fabs(run(0, true) - 4) < 1e-6, "by hand: the first");
  Expect(std::fabs(run(0, false) - 7) < 1e-6, "by hand: full");
}

void TestNothingVisible(AttentionPrecision p) {
  for (const int dim : {16, 64}) {
    for (const int queries : {3, 40}) {
      Sequence empty(queries, {4, 2, dim}, {{0, kF32}, {0, kF32}}, {0, kF32}, 1);
      Check({&empty}, p, "nothing visible " + Name(p));
      for (float x : empty.out().ToHost()) Expect(x == 0.0f, "nothing visible gives zeros");
      Sequence before(queries, {2, 1, dim}, {}, {5, kF32}, 2);
      before.input().first_visible = -1;
      Check({&before}, p, "before the first row " + Name(p));
      const std::vector<float> out = before.out().ToHost();
      for (int i = 0; i < 2 * dim; ++i) Expect(out[i] == 0.0f, "query 0 sees nothing");
    }
  }
}

void TestOddShapes(AttentionPrecision p) {
  uint32_t seed = 10;
  for (const int dim : {5, 16, 20, 32, 64, 80, 128, 256}) {
    for (const int queries : {1, 2, 5, 17, 70}) {
      Sequence s(queries, {6, 2, dim}, {{3, kF32}, {129, kF32}, {0, kF32}}, {queries + 7, kF32},
                 seed++);
      Check({&s}, p,
            "odd shape " + Name(p) + " " + std::to_string(dim) + " " + std::to_string(queries));
    }
  }
}

void TestMixedPrecision(AttentionPrecision p) {
  for (const int queries : {1, 40}) {
    for (const int dim : {20, 64, 128}) {
      for (const ElementType local : {kF32, kBf16, kInt8}) {
        Sequence s(
            queries, {9, 3, dim},
            {{3, kF32}, {150, kBf16}, {140, kInt8}, {1, kInt8}, {2, kBf16}, {77, kFp8}, {33, kFp8}},
            {queries + 21, local}, 77 + dim);
        Check({&s}, p,
              "mixed " + Name(p) + " " + std::to_string(dim) + " " + std::to_string(queries));
      }
      Sequence narrow(queries, {9, 3, dim}, {{30, kBf16}, {141, kInt8}, {17, kFp8}},
                      {queries + 2, kInt8}, 78 + dim);
      Check({&narrow}, p, "narrow " + Name(p) + " " + std::to_string(dim));
    }
  }
}

void TestGroups(AttentionPrecision p) {
  uint32_t seed = 300;
  for (const int group : {1, 3, 4, 8, 16, 32}) {
    for (const int queries : {1, 2, 4, 5, 33}) {
      Sequence s(queries, {2 * group, 2, 128}, {{3, kF32}, {37, kInt8}}, {queries + 50, kBf16},
                 seed++);
      Check({&s}, p,
            "group " + Name(p) + " " + std::to_string(group) + " " + std::to_string(queries));
    }
  }
}

void TestFullMask(AttentionPrecision p) {
  for (const int queries : {1, 20, 150}) {
    Sequence s(queries, {4, 4, 64}, {{5, kF32}}, {333, kBf16}, 5);
    s.input().causal = false;
    Check({&s}, p, "full mask " + Name(p));
  }
}

void TestLong(AttentionPrecision p) {
  Sequence prefill(33, {2, 1, 64}, {{700, kF32}}, {933, kF32}, 6);
  Check({&prefill}, p, "long prefill " + Name(p));
  Sequence split(30, {8, 2, 128}, {{300, kInt8}}, {5000, kBf16}, 8);
  Check({&split}, p, "split prefill " + Name(p));
  Sequence decode(1, {4, 1, 64}, {{2000, kInt8}}, {3001, kBf16}, 7);
  Check({&decode}, p, "long decode " + Name(p));
  Sequence longer(1, {4, 1, 128}, {{2000, kBf16}}, {20011, kF32}, 17);
  Check({&longer}, p, "longer decode " + Name(p));
  Sequence document(576, {8, 2, 128}, {}, {576, kBf16}, 27);
  Check({&document}, p, "document " + Name(p));
}

// The shape that decode is measured on: 3 template rows, 16 documents of 9 chunks, local rows.
void TestDecodeBatch(AttentionPrecision p) {
  for (const ElementType local : {kBf16, kF32}) {
    std::vector<std::unique_ptr<Sequence>> sequences;
    std::vector<Sequence*> batch;
    for (int i = 0; i < 5; ++i) {
      std::vector<Block> blocks = {{3, kF32}};
      for (int d = 0; d < 16; ++d) blocks.push_back({7 + d % 4, i % 2 == 0 ? kBf16 : kInt8});
      sequences.push_back(std::make_unique<Sequence>(1, Shape{32, 8, 128}, blocks,
                                                     Block{500 + 301 * i, local}, 60 + i));
      batch.push_back(sequences.back().get());
    }
    Check(batch, p, "decode batch " + Name(p));
    Check(batch, p, "decode batch of small splits " + Name(p), {.decode_split_tokens = 64});
    Check(batch, p, "decode batch unsplit " + Name(p), {.decode_split_tokens = 1 << 20});
  }
}

// More sequences than the chip holds blocks of at once: a block then takes fewer splits.
void TestManySequences(AttentionPrecision p) {
  std::vector<std::unique_ptr<Sequence>> sequences;
  std::vector<Sequence*> batch;
  for (int i = 0; i < 56; ++i) {
    sequences.push_back(std::make_unique<Sequence>(1, Shape{32, 8, 128},
                                                   std::vector<Block>{{3, kF32}, {140, kBf16}},
                                                   Block{1 + 53 * i % 700, kBf16}, 700 + i));
    batch.push_back(sequences.back().get());
  }
  Check(batch, p, "many sequences " + Name(p));
  for (int i = 0; i < 56; i += 11) {
    const std::vector<float> in_batch = batch[i]->out().ToHost();
    Run({batch[i]}, p);
    Expect(in_batch == batch[i]->out().ToHost(), "independent of many " + Name(p));
  }
}

// More views than the decode kernel keeps at hand, of types that change in the middle of a unit.
void TestManyViews(AttentionPrecision p) {
  for (const int num_blocks : {5, 48, 130}) {
    for (const int queries : {1, 40}) {
      const ElementType types[] = {kBf16, kInt8, kInt8, kFp8, kF32};
      std::vector<Block> blocks;
      for (int i = 0; i < num_blocks; ++i) blocks.push_back({1 + i % 7 * 3, types[i / 2 % 5]});
      Sequence s(queries, {8, 2, 128}, blocks, {queries + 30, kBf16}, 500 + num_blocks);
      Check({&s}, p, "many views " + Name(p) + " " + std::to_string(num_blocks));
    }
  }
}

// Single bytes but for a few rows.
void TestFewWideRows(AttentionPrecision p) {
  for (const ElementType type : {kInt8, kFp8}) {
    for (const int dim : {64, 128}) {
      for (const ElementType wide : {kBf16, kF32}) {
        Sequence s(1, {8, 2, dim}, {{3, wide}, {40, type}, {1, wide}, {9, type}}, {300, type}, 41);
        Check({&s}, p, "few wide rows " + Name(p) + " " + std::to_string(dim));
      }
    }
  }
}

void TestBatchIndependence(AttentionPrecision p) {
  for (const int dim : {32, 128}) {
    Sequence a(1, {6, 2, dim}, {{40, kF32}}, {3, kF32}, 21);
    Sequence b(1, {6, 2, dim}, {}, {600, kBf16}, 22);
    Sequence c(9, {6, 2, dim}, {{7, kInt8}}, {9, kF32}, 23);
    Sequence d(300, {6, 2, dim}, {{7, kInt8}}, {300, kBf16}, 24);
    Check({&a, &b, &c, &d}, p, "batch " + Name(p));
    for (Sequence* s : {&b, &c, &d}) {
      const std::vector<float> in_batch = s->out().ToHost();
      Run({s}, p);
      Expect(in_batch == s->out().ToHost(), "independent of the batch " + Name(p));
    }
  }
  CUDA_OK(LaunchAttention(PlanAttention({}, {}).launch, nullptr, nullptr, nullptr));
}

void TestLargeScores(AttentionPrecision p) {
  for (const int queries : {2, 60}) {
    Sequence s(queries, {2, 2, 64}, {{200, kF32}}, {queries, kF32}, 9);
    s.scale = 1e4f;
    Run({&s}, p);
    for (float x : s.out().ToHost())
      Expect(std::isfinite(x) && x != 0.0f, "large scores " + Name(p));
  }
}

void TestNan(AttentionPrecision p) {
  for (const ElementType type : {kF32, kBf16}) {
    for (const int queries : {3, 90}) {
      for (const bool in_v : {false, true}) {
        for (const float bad : {kNan, INFINITY}) {
          if (!in_v && !std::isnan(bad)) continue;  // an infinite score's sign depends on q
          Sequence s(queries, {2, 1, 64}, {{10, kF32}}, {queries, type}, 9);
          s.SetElement(in_v ? s.v(1) : s.k(1), 1, 0, 5, type, bad);  // local row 1
          Check({&s}, p, "NaN " + Name(p) + (in_v ? " v " : " k ") + std::to_string(queries));
          const std::vector<float> out = s.out().ToHost();
          for (int i = 0; i < 2 * 64; ++i) Expect(std::isfinite(out[i]), "query 0 sees no NaN");
          Expect(!std::isfinite(out[2 * 64 + 5]), "query 1 sees it");
        }
      }
    }
  }
  for (const bool in_v : {false, true}) {
    Sequence s(3, {2, 1, 64}, {{10, kBf16}}, {3, kInt8}, 9);
    s.SetScale(in_v ? s.v(1) : s.k(1), 1, 0, kNan);
    Check({&s}, p, "NaN scale " + Name(p));
  }
}

void TestGraphOfGrowingContext(AttentionPrecision p) {
  Sequence s(1, {8, 2, 128}, {{3, kF32}, {20, kBf16}}, {700, kBf16}, 31);
  s.input().local.num_tokens = 500;
  s.input().first_visible = 499;
  Ready ready(ShapeOf(s, p), {s.input()}, {.local_capacity = 700});
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA_OK(cudaStreamCreate(&stream));
  CUDA_OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  CUDA_OK(AdvanceLocal(ready.plan.launch, ready.table.get(), 1, stream));
  ready.Launch(stream);
  CUDA_OK(cudaStreamEndCapture(stream, &graph));
  CUDA_OK(cudaGraphInstantiate(&exec, graph, 0));
  for (int step = 0; step < 200; ++step) {
    s.out().Poison();
    CUDA_OK(cudaDeviceSynchronize());
    CUDA_OK(cudaGraphLaunch(exec, stream));
    CUDA_OK(cudaStreamSynchronize(stream));
    ++s.input().local.num_tokens;
    ++s.input().first_visible;
    if (step % 23 == 0 || step == 199) ExpectMatches(s, p, "graph step " + Name(p));
  }
  CUDA_OK(cudaGraphExecDestroy(exec));
  CUDA_OK(cudaGraphDestroy(graph));
  CUDA_OK(cudaStreamDestroy(stream));
}

void TestRefusesBadShapes() {
  Sequence s(1, {4, 2, 16}, {}, {4, kF32}, 1);
  AttentionShape shape = ShapeOf(s, AttentionPrecision::kFloat32);
  AttentionPlan plan = PlanAttention(shape, {&s.input(), 1});
  plan.launch.shape.head_dim = kMaxAttentionDim + 1;
  Expect(LaunchAttention(plan.launch, nullptr, nullptr, nullptr) == cudaErrorInvalidValue,
         "too wide a head is refused");
}

}  // namespace
}  // namespace msa::kernels::cuda

int main(int argc, char** argv) {
  using namespace msa::kernels::cuda;  // NOLINT: the whole program tests it
  // hopper: the kernels of compute capability 9.0; quick: a part, for a memory checker.
  bool quick = false;
  for (int i = 1; i < argc; ++i) {
    g_hopper |= std::strcmp(argv[i], "hopper") == 0;
    quick |= std::strcmp(argv[i], "quick") == 0;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  TestByHand();
  TestRefusesBadShapes();
  for (const AttentionPrecision p : kPrecisions) {
    if (g_hopper && p == AttentionPrecision::kFloat32) continue;  // the same kernels
    TestNothingVisible(p);
    if (!quick) TestOddShapes(p);
    TestMixedPrecision(p);
    if (!quick) TestGroups(p);
    TestFullMask(p);
    if (!quick) TestLong(p);
    if (!quick) TestDecodeBatch(p);
    if (!quick) TestManySequences(p);
    TestManyViews(p);
    TestFewWideRows(p);
    TestBatchIndependence(p);
    TestLargeScores(p);
    TestNan(p);
    TestGraphOfGrowingContext(p);
    std::printf("precision %s done, failures so far %d\n", Name(p).c_str(),
                msa::testing::Failures());
  }
  std::printf("worst relative error: float32 %.2e, bfloat16 %.2e\n", g_worst[0], g_worst[1]);
  return msa::testing::Finish("attention_gpu_test");
}
