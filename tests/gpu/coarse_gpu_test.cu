// Codes of 4 bits and the scan before the exact scan, on a GPU.
#include "kernels/cuda/coarse.h"
#include "tests/gpu/routing_case.cuh"
#include "tests/gpu/routing_device.cuh"
#include "tests/gpu/routing_oracle.cuh"

namespace msa::kernels::cuda {
namespace {

// Codes of normal keys, made on the device, and what they stand for.
Keys EncodeOnDevice(const Keys& from, KeyFormat format, int width) {
  DeviceBuffer<char> keys(from.bytes);
  DeviceBuffer<float> key_scales(from.scales);
  DeviceBuffer<uint8_t> codes(from.num_chunks * width / 2);
  DeviceBuffer<float> scales(from.num_chunks);
  CUDA_OK(EncodeCoarse(keys.get(), format, from.scales.empty() ? nullptr : key_scales.get(),
                       from.num_chunks, width, codes.get(), scales.get(), nullptr));
  Keys to;
  to.num_chunks = from.num_chunks;
  to.scales = Fetch(scales);
  const std::vector<uint8_t> bytes = Fetch(codes);
  to.bytes.assign(bytes.begin(), bytes.end());
  for (int64_t c = 0; c < from.num_chunks; ++c) {
    for (int i = 0; i < width; ++i) {
      const uint8_t byte = bytes[c * (width / 2) + i / 64 * 32 + i % 32];
      to.values.push_back(to.scales[c] * ((i % 64 < 32 ? byte & 15 : byte >> 4) - 7.5));
    }
  }
  return to;
}

void TestCodes() {
  uint32_t seed = 5000;
  for (const KeyFormat format : kFormats) {
    for (const int width : {64, 192, 1024, 4096}) {
      Case c = MakeCase(Folded(1, width, 0.7f), format, QueryPrecision::kSplit, {301, 0, 40},
                        {1, 40, 3}, seed++);
      for (Keys& keys : c.segments) {
        const std::vector<double> exact = keys.values;
        keys = EncodeOnDevice(keys, format, width);
        double error = 0;
        double square = 0;
        for (size_t i = 0; i < exact.size(); ++i) {
          error += (exact[i] - keys.values[i]) * (exact[i] - keys.values[i]);
          square += exact[i] * exact[i];
        }
        Expect(exact.empty() || error < 0.015 * square, Name("codes", format, c.precision));
      }
      c.format = KeyFormat::kInt4;
      for (const QueryPrecision precision : kPrecisions) {
        c.precision = precision;
        const std::vector<float> together = Score(c);
        ExpectMatchesOracle(c, together, Name("scores of codes", c.format, precision));
        for (int q = 0; q < c.num_questions(); ++q) {
          const std::vector<float> alone = Score(OneQuestion(c, q));
          Expect(std::memcmp(alone.data(), &together[q * c.num_parts()],
                             alone.size() * sizeof(float)) == 0,
                 Name("company of codes", c.format, precision));
        }
      }
    }
  }
}

// The full scan's best k of a question, from its scores.
std::vector<ScoredPart> BestParts(const float* scores, int64_t num_parts, int k) {
  std::vector<ScoredPart> best;
  for (int64_t p = 0; p < num_parts; ++p) {
    if (scores[p] > kNoScore) best.push_back({scores[p], p});
  }
  std::sort(best.begin(), best.end(), Precedes);
  best.resize(k);
  return best;
}

void CheckCoarse(const Case& c) {
  const int width = c.shape.key_width();
  const int num_questions = c.num_questions();
  Expect(c.num_parts() < 1000, "few parts");
  const std::vector<float> scores = Score(c);
  std::vector<Keys> codes;
  for (const Keys& keys : c.segments) codes.push_back(EncodeOnDevice(keys, c.format, width));
  DeviceBank bank(c.segments, c.part_begin);
  DeviceBank code_bank(codes, c.part_begin);
  DeviceBuffer<float> queries(c.queries);
  DeviceBuffer<float> coarse_scores(num_questions * c.num_parts());
  CoarseArgs args;
  args.scan = ArgsOf(c, bank, queries, coarse_scores);
  args.codes = code_bank.table();
  args.num_candidates = 1000;
  args.k = 16;
  DeviceBuffer<float> best_scores(num_questions * args.k);
  DeviceBuffer<int64_t> best_references(num_questions * args.k);
  DeviceBuffer<int32_t> best_indices(num_questions * args.k);
  args.best_scores = best_scores.get();
  args.best_references = best_references.get();
  args.best_indices = best_indices.get();
  DeviceBuffer<char> workspace(CoarseWorkspaceBytes(args));
  CUDA_OK(SelectTopKCoarse(args, workspace.get(), nullptr));
  Fetch(workspace);
  Fetch(coarse_scores);
  const auto got_scores = Fetch(best_scores);
  const auto got_references = Fetch(best_references);
  const auto got_indices = Fetch(best_indices);
  for (int q = 0; q < num_questions; ++q) {
    const auto want = BestParts(&scores[q * c.num_parts()], c.num_parts(), args.k);
    bool same = true;
    for (int i = 0; i < args.k; ++i) {
      const int at = q * args.k + i;
      same = same && got_scores[at] == want[i].score && got_references[at] == want[i].reference &&
             got_indices[at] == want[i].reference;
    }
    Expect(same, Name("coarse", c.format, c.precision) + " width " + std::to_string(width));
  }
}

// With every part a candidate the answer is the full scan's, to the bit.
void TestCoarse() {
  uint32_t seed = 6000;
  for (const KeyFormat format : kFormats) {
    for (const QueryPrecision precision : kPrecisions) {
      for (const int width : {192, 1024}) {
        for (const Reduce query : {Reduce::kMax, Reduce::kMean}) {
          RoutingShape shape = Folded(1, width, 0.7f);
          shape.query = query;
          CheckCoarse(
              MakeCase(shape, format, precision, {2001, 0, 7, 300}, {1, 40, 90, 3}, seed++));
        }
      }
    }
  }
}

}  // namespace
}  // namespace msa::kernels::cuda

int main() {
  msa::kernels::cuda::TestCodes();
  msa::kernels::cuda::TestCoarse();
  return msa::testing::Finish("coarse");
}
