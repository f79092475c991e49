#include "cli/model_paths.h"

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "common/strings.h"

namespace msa::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kDefaultModel[] = "models/smollm2-135m-instruct";

bool HoldsModel(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "config.json", error);
}

// build/release/bin/msa → the source tree that holds build/.
std::vector<fs::path> PlacesToLook() {
  std::vector<fs::path> places = {fs::path()};
  std::error_code error;
  fs::path at = fs::read_symlink("/proc/self/exe", error).parent_path();
  for (int up = 0; !error && up < 4 && at.has_relative_path(); ++up) {
    places.push_back(at);
    at = at.parent_path();
  }
  return places;
}

}  // namespace

absl::StatusOr<std::string> FindModel(const std::string& given) {
  if (!given.empty()) {
    if (HoldsModel(given)) return given;
    return absl::NotFoundError(
        StrCat("no model in ", given,
               ": a folder of Hugging Face files (config.json, "
               "*.safetensors, tokenizer.json) is expected; `make model` makes ",
               kDefaultModel));
  }
  for (const fs::path& place : PlacesToLook()) {
    if (HoldsModel(place / kDefaultModel)) return (place / kDefaultModel).string();
  }
  return absl::NotFoundError(StrCat("no model was named and ", kDefaultModel,
                                    " is not there: run `make model`, or name a folder of Hugging "
                                    "Face files with --model or MSA_MODEL"));
}

std::string FindAdapter(const std::string& model_dir) {
  std::error_code error;
  std::vector<std::string> names;
  // As it was named, and where it leads when that is a link.
  for (fs::path model : {fs::absolute(model_dir, error).lexically_normal(),
                         fs::weakly_canonical(model_dir, error)}) {
    if (error) return "";
    if (!model.has_filename()) model = model.parent_path();  // "models/m/"
    const fs::path adapter = model.parent_path() / (model.filename().string() + "-msa");
    if (fs::exists(adapter / "adapter_config.json", error)) return adapter.string();
    error.clear();
    names.push_back(absl::AsciiStrToLower(model.filename().string()));
  }
  for (const fs::path& place : PlacesToLook()) {
    for (const std::string& name : names) {
      const fs::path adapter = place / "models" / (name + "-msa");
      if (fs::exists(adapter / "adapter_config.json", error)) return adapter.string();
    }
  }
  return "";
}

}  // namespace msa::cli
