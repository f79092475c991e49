#!/usr/bin/env python3
"""Writes compute_node/model/unicode_additions.cc: what Hugging Face tokenizers' Unicode tables know
beyond those of the installed PCRE2 and ICU, measured over all code points.

    pip install tokenizers==0.23.3
    python measure_unicode.py > compute_node/model/unicode_additions.cc && clang-format -i …
"""

import ctypes
import ctypes.util
import re
import sys

from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ["L", "Lu", "Ll", "Lm", "Lo", "M", "N"]
PCRE2_UTF, PCRE2_UCP, PCRE2_NO_UTF_CHECK = 0x00080000, 0x00020000, 0x40000000
ICU_NUMBERS = {9, 10, 11}  # u_charType: Nd, Nl, No


def pcre2_matches(pattern):
    library = ctypes.CDLL(ctypes.util.find_library("pcre2-8"))
    library.pcre2_compile_8.restype = library.pcre2_match_data_create_8.restype = ctypes.c_void_p
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    source = pattern.encode()
    code = ctypes.c_void_p(
        library.pcre2_compile_8(
            source, ctypes.c_size_t(len(source)), PCRE2_UTF | PCRE2_UCP,
            ctypes.byref(error), ctypes.byref(offset), None,
        )
    )  # fmt: skip
    data = ctypes.c_void_p(library.pcre2_match_data_create_8(1, None))

    def matches(code_point):
        text = chr(code_point).encode()
        size, zero = ctypes.c_size_t(len(text)), ctypes.c_size_t(0)
        return library.pcre2_match_8(code, text, size, zero, PCRE2_NO_UTF_CHECK, data, None) >= 0

    return {c for c in CODE_POINTS if matches(c)}


def icu_numbers():
    path = ctypes.util.find_library("icuuc")
    library = ctypes.CDLL(path)
    version = re.search(r"\.so\.(\d+)", path).group(1)
    char_type = getattr(library, f"u_charType_{version}")
    char_type.restype = ctypes.c_int8
    return {c for c in CODE_POINTS if char_type(c) in ICU_NUMBERS}


def reference_matches(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in CODE_POINTS if not split.pre_tokenize_str(chr(c))}


def reference_digits():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODE_POINTS if len(digits.pre_tokenize_str(chr(c) * 2)) == 2}


def ranges(code_points):
    found = []
    for c in sorted(code_points):
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def class_lines(code_points):
    lines = [""]
    for first, last in ranges(code_points):
        part = rf"\\x{{{first:X}}}" + (rf"-\\x{{{last:X}}}" if last > first else "")
        if len(lines[-1]) + len(part) > 84:
            lines.append("")
        lines[-1] += part
    return lines


def main():
    spaces = reference_matches(r"\s")
    stated = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
    if spaces != stated:
        print("\\s differs from kSpace in regex.cc", file=sys.stderr)
        return 1
    print('#include "compute_node/model/unicode_additions.h"\n\n#include <array>\n')
    print("namespace msa::compute_node {\nnamespace {\n\nstruct Addition {\n  std::string_view category;")
    print("  std::string_view ranges;\n};\n")
    print(f"constexpr std::array<Addition, {len(CATEGORIES)}> kAdditions = {{{{")
    for category in CATEGORIES:
        pattern = rf"\p{{{category}}}"
        reference, ours = reference_matches(pattern), pcre2_matches(pattern)
        if ours - reference:
            print(f"{pattern}: PCRE2 has characters the reference has not", file=sys.stderr)
            return 1
        strings = "\n     ".join(f'"{line}"' for line in class_lines(reference - ours))
        print(f'    {{"{category}",\n     {strings}}},')
    print("}};\n\n}  // namespace\n")
    print("std::string_view UnicodeAdditions(std::string_view category) {")
    print("  for (const Addition& addition : kAdditions) {")
    print("    if (addition.category == category) return addition.ranges;\n  }\n  return \"\";\n}\n")
    numbers = ranges(reference_digits() - icu_numbers())
    print("bool IsAddedNumeric(char32_t c) {\n  struct Range {\n    char32_t first, last;\n  };")
    print(f"  constexpr std::array<Range, {len(numbers)}> kRanges = {{{{")
    print("\n".join(f"      {{0x{first:X}, 0x{last:X}}}," for first, last in numbers))
    print("  }};\n  for (const Range& range : kRanges) {")
    print("    if (c >= range.first && c <= range.last) return true;\n  }\n  return false;\n}\n")
    print("}  // namespace msa::compute_node")
    return 0


if __name__ == "__main__":
    sys.exit(main())
