// Typed reading of JSON fields with statuses instead of nlohmann's exceptions.
#ifndef MSA_COMPUTE_NODE_MODEL_JSON_FIELDS_H_
#define MSA_COMPUTE_NODE_MODEL_JSON_FIELDS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/strings.h"
#include "nlohmann/json.hpp"

namespace msa::compute_node {

// The field, or a null value when `object` is no object or has none. Lifetime: that of `object`.
inline const nlohmann::json& Field(const nlohmann::json& object, std::string_view name) {
  static const nlohmann::json* const kNull = new nlohmann::json();
  if (!object.is_object()) return *kNull;
  const auto it = object.find(std::string(name));
  return it == object.end() ? *kNull : *it;
}

// The field as a bool, `fallback` when absent or null; INVALID_ARGUMENT naming `where` otherwise.
inline absl::StatusOr<bool> BoolField(const nlohmann::json& object, std::string_view name,
                                      bool fallback, std::string_view where) {
  const nlohmann::json& value = Field(object, name);
  if (value.is_null()) return fallback;
  if (value.is_boolean()) return value.get<bool>();
  return absl::InvalidArgumentError(
      StrCat(where, ".", name, " must be true or false, not ", value.type_name()));
}

// The field as text, `fallback` when absent or null; INVALID_ARGUMENT naming `where` otherwise.
inline absl::StatusOr<std::string> StringField(const nlohmann::json& object, std::string_view name,
                                               std::string_view fallback, std::string_view where) {
  const nlohmann::json& value = Field(object, name);
  if (value.is_null()) return std::string(fallback);
  if (value.is_string()) return value.get<std::string>();
  return absl::InvalidArgumentError(
      StrCat(where, ".", name, " must be text, not ", value.type_name()));
}

}  // namespace msa::compute_node

#endif  // MSA_COMPUTE_NODE_MODEL_JSON_FIELDS_H_
