// Debian's Abseil was built as C++14: its absl::string_view is not std::string_view. These bridge
// the two.
#ifndef MSA_COMMON_STRINGS_H_
#define MSA_COMMON_STRINGS_H_

#include <string>
#include <string_view>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace msa {

inline absl::string_view ToAbsl(std::string_view text) { return {text.data(), text.size()}; }

namespace strings_internal {
template <typename T>
decltype(auto) Bridge(const T& value) {
  if constexpr (std::is_same_v<T, std::string_view>) {
    return ToAbsl(value);
  } else {
    return (value);
  }
}
}  // namespace strings_internal

// absl::StrCat that takes std::string_view too.
template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(strings_internal::Bridge(args)...);
}

}  // namespace msa

#endif  // MSA_COMMON_STRINGS_H_
