// The two macros every file uses to pass an absl::Status on. Abseil 20220623 has none of its own.
#ifndef MSA_COMMON_STATUS_MACROS_H_
#define MSA_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expr` (an absl::Status) is not OK.
#define MSA_RETURN_IF_ERROR(expr)                                                 \
  do {                                                                            \
    if (absl::Status msa_status_ = (expr); !msa_status_.ok()) return msa_status_; \
  } while (false)

#define MSA_STATUS_CONCAT_INNER_(a, b) a##b
#define MSA_STATUS_CONCAT_(a, b) MSA_STATUS_CONCAT_INNER_(a, b)

// MSA_ASSIGN_OR_RETURN(auto value, F()): declares or assigns `value`, or returns F()'s status.
#define MSA_ASSIGN_OR_RETURN(lhs, expr) \
  MSA_ASSIGN_OR_RETURN_IMPL_(MSA_STATUS_CONCAT_(msa_status_or_, __LINE__), lhs, expr)

#define MSA_ASSIGN_OR_RETURN_IMPL_(result, lhs, expr)  \
  auto result = (expr);                                \
  if (!result.ok()) return std::move(result).status(); \
  lhs = *std::move(result)

#endif  // MSA_COMMON_STATUS_MACROS_H_
