#include "tests/support/encoded_documents.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

#include "common/block_layout.h"
#include "common/block_record.h"
#include "common/crc32c.h"
#include "common/strings.h"

namespace msa::testing {
namespace {

using Random = std::mt19937_64;

void AppendNumber(int value, DType dtype, std::string* out) {
  const auto append = [out](auto number) {
    out->append(reinterpret_cast<const char*>(&number), sizeof(number));
  };
  switch (dtype) {
    case DType::kFloat32:
      return append(static_cast<float>(value));
    case DType::kBFloat16:
      return append(ToBFloat16(static_cast<float>(value)).bits);
    case DType::kFloat8:
      return append(ToFloat8(static_cast<float>(value)).bits);
    default:
      return append(static_cast<int8_t>(value));
  }
}

std::string RandomNumbers(int64_t count, DType dtype, Random& random) {
  std::string numbers;
  for (int64_t i = 0; i < count; ++i)
    AppendNumber(static_cast<int>(random() % 17) - 8, dtype, &numbers);
  numbers.resize(AlignTo4(numbers.size()));
  return numbers;
}

std::string RandomScales(int64_t count, Random& random) {
  std::string scales;
  for (int64_t i = 0; i < count; ++i) {
    AppendNumber(1 << (random() % 3), DType::kFloat32, &scales);
  }
  return scales;
}

std::string RoutingBlock(const rpc::BankSpec& bank, int32_t chunks, Random& random) {
  std::string block =
      RandomNumbers(int64_t{chunks} * bank.routing.key_width(), bank.routing_dtype, random);
  if (HasScales(bank.routing_dtype)) block += RandomScales(chunks, random);
  return block;
}

std::string ContentBlock(const rpc::BankSpec& bank, int32_t chunks, Random& random) {
  const int64_t numbers = int64_t{chunks} * bank.routing.key_width();
  std::string block = RandomNumbers(numbers, bank.content_dtype, random);
  block += RandomNumbers(numbers, bank.content_dtype, random);
  if (HasScales(bank.content_dtype)) {
    block += RandomScales(2 * int64_t{chunks} * bank.routing.num_kv_heads, random);
  }
  return block;
}

int32_t Chunks(int32_t tokens, int32_t chunk_tokens) {
  return (tokens + chunk_tokens - 1) / chunk_tokens;
}

double KeyElement(std::string_view block, DType dtype, int64_t index) {
  if (dtype == DType::kInt8) return static_cast<int8_t>(block[index]);
  if (dtype == DType::kFloat8) return ToFloat(Float8{static_cast<uint8_t>(block[index])});
  if (dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, block.data() + 4 * index, 4);
    return value;
  }
  BFloat16 value;
  std::memcpy(&value, block.data() + 2 * index, 2);
  return ToFloat(value);
}

}  // namespace

rpc::BankSpec TestBank(DType routing, DType content, std::string name, uint64_t uid) {
  rpc::BankSpec bank;
  bank.name = std::move(name);
  bank.uid = uid;
  bank.model_fingerprint = "0123456789abcdef0123456789abcdef";
  bank.model_name = "test model";
  bank.router_layers = {2, 3, 5};
  bank.routing = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 4};
  bank.routing_chunk_tokens = 4;
  bank.content_chunk_tokens = 8;
  bank.routing_dtype = routing;
  bank.content_dtype = content;
  bank.part_tokens = 64;
  return bank;
}

rpc::EncodedDocument MakeDocument(const rpc::BankSpec& bank, const DocumentSeed& seed) {
  Random random(seed.seed * 1000003 + static_cast<uint64_t>(seed.first_reference));
  rpc::EncodedDocument document;
  document.bank = bank.name;
  document.bank_uid = bank.uid;
  document.model_fingerprint = bank.model_fingerprint;
  document.document.id = seed.id;
  document.document.title = seed.title;
  document.document.text =
      seed.text.empty() ? StrCat("text of ", seed.id, ", seed ", seed.seed) : seed.text;
  document.document.metadata = StrCat("{\"seed\":", seed.seed, "}");
  const uint64_t bytes = document.document.FullText().size();
  const auto num_parts = static_cast<int64_t>(seed.part_tokens.size());
  for (int64_t i = 0; i < num_parts; ++i) {
    rpc::EncodedPart& part = document.parts.emplace_back();
    part.reference = seed.first_reference + i;
    part.span = {bytes * i / num_parts, bytes * (i + 1) / num_parts};
    part.num_tokens = seed.part_tokens[i];
    part.routing_chunks = Chunks(part.num_tokens, bank.routing_chunk_tokens);
    part.content_chunks = Chunks(part.num_tokens, bank.content_chunk_tokens);
    for (size_t layer = 0; layer < bank.router_layers.size(); ++layer) {
      rpc::EncodedLayer& encoded = part.layers.emplace_back();
      encoded.routing = rpc::Payload(RoutingBlock(bank, part.routing_chunks, random));
      encoded.content = rpc::Payload(ContentBlock(bank, part.content_chunks, random));
      encoded.routing_crc32c = Crc32c(encoded.routing.view());
      encoded.content_crc32c = Crc32c(encoded.content.view());
    }
  }
  return document;
}

std::vector<float> MakeQueries(const rpc::BankSpec& bank, int rows, uint64_t seed) {
  Random random(seed);
  std::vector<float> queries(static_cast<size_t>(rows) * bank.routing.query_width());
  for (float& value : queries) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
  return queries;
}

float OracleScore(const rpc::BankSpec& bank, const rpc::EncodedPart& part, int layer_index,
                  const std::vector<float>& queries) {
  const int width = bank.routing.key_width();
  const std::string_view block = part.layers[layer_index].routing.view();
  const RoutingBlockLayout layout(bank.routing_dtype, part.routing_chunks, width);
  double best = -1e300;
  for (int32_t chunk = 0; chunk < part.routing_chunks; ++chunk) {
    const double scale =
        HasScales(bank.routing_dtype)
            ? KeyElement(block.substr(layout.scales_offset), DType::kFloat32, chunk)
            : 1.0;
    for (size_t row = 0; row < queries.size() / width; ++row) {
      double sum = 0;
      for (int i = 0; i < width; ++i) {
        sum += KeyElement(block, bank.routing_dtype, int64_t{chunk} * width + i) *
               queries[row * width + i];
      }
      best = std::max(best, sum * scale);
    }
  }
  return static_cast<float>(best * bank.routing.scale);
}

std::string ContentPayload(const rpc::BankSpec& bank, const rpc::EncodedPart& part,
                           uint64_t revision, int32_t layer, std::string_view record,
                           std::string* error) {
  BlockIdentity identity;
  identity.kind = RecordKind::kContent;
  identity.dtype = bank.content_dtype;
  identity.layer = layer;
  identity.num_kv_heads = bank.routing.num_kv_heads;
  identity.bank_uid = bank.uid;
  identity.reference = part.reference;
  identity.revision = revision;
  identity.fingerprint = bank.model_fingerprint;
  identity.rows = part.content_chunks;
  identity.width = bank.routing.key_width();
  auto payload = VerifyRecord(record, identity);
  *error = payload.status().ToString();
  return payload.ok() ? std::string(*payload) : "";
}

}  // namespace msa::testing
