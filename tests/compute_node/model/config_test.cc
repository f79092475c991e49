#include "compute_node/model/config.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Slurp(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

json Published() {
  return json::parse(Slurp(std::string(MSA_SOURCE_DIR) + "/tests/golden/qwen3_small/config.json"));
}

json PlainLlama() {
  return {{"model_type", "llama"},    {"num_hidden_layers", 4},         {"hidden_size", 64},
          {"intermediate_size", 128}, {"num_attention_heads", 4},       {"num_key_value_heads", 2},
          {"vocab_size", 100},        {"max_position_embeddings", 256}, {"rope_theta", 10000.0},
          {"eos_token_id", {1, 2}}};
}

void ExpectRefused(const json& config, const std::string& word) {
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_FALSE(parsed.ok()) << "accepted: " << config.dump();
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(word));
}

TEST(ConfigTest, ReadsAPublishedCheckpoint) {
  const auto config = ParseModelConfig(Published().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->qk_norm);
  EXPECT_TRUE(config->memory.decoupled_router);
  EXPECT_TRUE(config->memory.cosine);
  EXPECT_THAT(config->memory.router_layers, ElementsAre(2, 3));
  EXPECT_EQ(config->memory.top_k, 3);
  EXPECT_EQ(config->memory.routing_chunk_tokens, 4);
  EXPECT_EQ(config->memory.retrieval_mode, RetrievalMode::kGenerative);
  EXPECT_FALSE(config->memory.final_question_causal);
  EXPECT_EQ(config->memory.reader_question, ReaderQuestion::kAfter);
  EXPECT_FALSE(config->memory.reader_full_attention);
  EXPECT_FALSE(config->memory.refusal_against_all);
  EXPECT_EQ(config->Routing().scale, 1.0f);
}

TEST(ConfigTest, ReadsWhatACheckpointWasCalibratedFor) {
  json config = PlainLlama();
  config["msa_config"] = {{"router_layer_idx", "2,3"},  {"reader_question", "twice"},
                          {"reader_attention", "full"}, {"refusal", "No answer."},
                          {"refusal_bias", -0.875},     {"round_min_score", 0.46},
                          {"refusal_against", "all"},   {"reader_apart_margin", 1}};
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->memory.reader_question, ReaderQuestion::kTwice);
  EXPECT_TRUE(parsed->memory.reader_full_attention);
  EXPECT_EQ(parsed->memory.refusal, "No answer.");
  EXPECT_FLOAT_EQ(parsed->memory.refusal_bias, -0.875f);
  EXPECT_TRUE(parsed->memory.refusal_against_all);
  EXPECT_FLOAT_EQ(parsed->memory.round_min_score, 0.46f);
  EXPECT_EQ(parsed->memory.reader_apart_margin, 1.0f);
  for (const char* field : {"refusal_bias", "refusal_against", "round_min_score", "reader_question",
                            "reader_attention", "reader_apart_margin"}) {
    json wrong = config;
    wrong["msa_config"][field] = "much";
    ExpectRefused(wrong, field);
  }
  config["msa_config"].erase("refusal");  // without which nothing is to be compared
  ExpectRefused(config, "reader_apart_margin");
  config["msa_config"].erase("reader_apart_margin");
  EXPECT_EQ(ParseModelConfig(config.dump())->memory.reader_apart_margin, std::nullopt);
}

TEST(ConfigTest, AReaderPromptIsCausalOrFull) {
  json config = PlainLlama();
  EXPECT_FALSE(ParseModelConfig(config.dump())->memory.reader_full_attention);
  config["msa_config"] = {{"router_layer_idx", "2,3"}, {"reader_attention", "causal"}};
  EXPECT_FALSE(ParseModelConfig(config.dump())->memory.reader_full_attention);
  config["msa_config"]["reader_attention"] = "full";
  EXPECT_TRUE(ParseModelConfig(config.dump())->memory.reader_full_attention);
  for (const char* bad : {"", "Full", "bidirectional"}) {
    config["msa_config"]["reader_attention"] = bad;
    ExpectRefused(config, std::string("'reader_attention' is '") + bad + "'; known: causal, full");
  }
  config["msa_config"]["reader_attention"] = true;
  ExpectRefused(config, "'reader_attention' must be a string");
}

TEST(ConfigTest, ScalesUnlessCosineAndDecoupled) {
  // The table of tests/golden/README.md, row by row.
  struct Row {
    const char* method;
    bool decoupled, normalised, scaled;
  };
  for (const Row& row :
       {Row{"INFONCE", true, true, false}, Row{"INFONCE", false, true, true},
        Row{"INFONCE_DECOUPLE", true, false, true}, Row{"INFONCE_DECOUPLE", false, false, true}}) {
    json config = Published();
    config["msa_config"]["aux_loss_method"] = row.method;
    config["msa_config"]["decouple_router"] = row.decoupled;
    const auto parsed = ParseModelConfig(config.dump());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->memory.cosine, row.normalised);
    EXPECT_FLOAT_EQ(parsed->Routing().scale, row.scaled ? 0.25f : 1.0f);
  }
}

TEST(ConfigTest, RefusesWhatThePublishedEngineRefuses) {
  const json refused = json::parse(
      Slurp(std::string(MSA_SOURCE_DIR) + "/tests/golden/reduce_variants/refused.json"));
  ASSERT_FALSE(refused.empty());
  for (const auto& [name, entry] : refused.items()) {
    json config = Published();
    config["msa_config"].update(entry["msa_config"]);
    ExpectRefused(config, "reduce_method");
  }
}

TEST(ConfigTest, DefaultTopKIsTheEngines) {
  json config = Published();
  config["msa_config"].erase("doc_top_k");
  config["msa_config"]["top_k_docs"] = 7;
  EXPECT_EQ(ParseModelConfig(config.dump())->memory.top_k, 16);
}

TEST(ConfigTest, RouterLayersAllAndLists) {
  json config = Published();
  config["msa_config"]["router_layer_idx"] = "all";
  EXPECT_THAT(ParseModelConfig(config.dump())->memory.router_layers, ElementsAre(0, 1, 2, 3));
  config["msa_config"]["router_layer_idx"] = {3, 1};
  EXPECT_THAT(ParseModelConfig(config.dump())->memory.router_layers, ElementsAre(1, 3));
  for (const char* bad : {"", "4", "-1", "2,2", "two", "2,,3"}) {
    config["msa_config"]["router_layer_idx"] = bad;
    ExpectRefused(config, "router_layer_idx");
  }
}

TEST(ConfigTest, BackboneWithoutRoutersUsesItsUpperHalf) {
  const auto config = ParseModelConfig(PlainLlama().dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->has_memory_config);
  EXPECT_FALSE(config->memory.decoupled_router);
  EXPECT_EQ(config->memory.retrieval_mode, RetrievalMode::kRouter);
  EXPECT_THAT(config->memory.router_layers, ElementsAre(2, 3));
  EXPECT_THAT(config->eos_token_ids, ElementsAre(1, 2));
}

TEST(ConfigTest, NamesTheFieldThatIsMissing) {
  for (const char* field : {"model_type", "num_hidden_layers", "hidden_size", "intermediate_size",
                            "num_attention_heads", "vocab_size"}) {
    json config = PlainLlama();
    config.erase(field);
    ExpectRefused(config, field);
  }
  json msa = Published();
  msa.erase("msa_config");
  ExpectRefused(msa, "msa_config");
}

TEST(ConfigTest, NamesTheFieldThatIsWrong) {
  for (const auto& [field, value] : std::vector<std::pair<std::string, json>>{
           {"num_hidden_layers", 0},
           {"num_hidden_layers", "four"},
           {"hidden_size", -64},
           {"num_key_value_heads", 3},
           {"vocab_size", 1e12},
           {"model_type", "mamba"},
           {"hidden_act", "gelu"},
           {"use_sliding_window", true},
           {"head_dim", 15},
           {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}},
           {"rope_theta", "big"},
           {"rope_theta", 0},
           {"rope_theta", -10000.0},
           {"rope_theta", 1e300},
           {"rope_theta", 1e-45},
           {"rms_norm_eps", -1e-6},
           {"rms_norm_eps", 0},
           {"eos_token_id", {int64_t{1} << 32}},
           {"eos_token_id", "end"}}) {
    json config = PlainLlama();
    config[field] = value;
    ExpectRefused(config, field);
  }
  json config = PlainLlama();
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 0}};
  ExpectRefused(config, "factor");
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 1e-40}};
  ExpectRefused(config, "rope_theta");
  config = PlainLlama();
  config["msa_config"] = {{"router_layer_idx", {(int64_t{1} << 32) + 2}}};
  ExpectRefused(config, "router_layer_idx");
}

TEST(ConfigTest, RefusesWhatIsNoJson) {
  EXPECT_FALSE(ParseModelConfig("").ok());
  EXPECT_FALSE(ParseModelConfig("{\"model_type\": \"llama\"").ok());
  EXPECT_FALSE(ParseModelConfig("[]").ok());
}

TEST(ConfigTest, ReadsRopeParametersOfTransformersFive) {
  json config = PlainLlama();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500000.0}};
  const auto parsed = ParseModelConfig(config.dump());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const auto frequencies = parsed->InverseFrequencies();
  EXPECT_FLOAT_EQ(frequencies[0], 1.0f);
  EXPECT_NEAR(frequencies[1], std::pow(500000.0, -2.0 / 16), 1e-6);
}

}  // namespace
}  // namespace msa::compute_node
