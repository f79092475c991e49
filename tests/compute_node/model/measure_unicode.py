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

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ["L", "Lu", "Ll", "Lm", "Lo", "M", "N"]
PCRE2_UTF, PCRE2_UCP, PCRE2_NO_UTF_CHECK = 0x00080000, 0x00020000, 0x40000000
ICU_NUMBERS = {9, 10, 11}  # u_charType: Nd, Nl, No
ICU_WORD_TYPES = {6, 7, 8, 9, 22}  # Mn, Me, Mc, Nd, Pc
ICU_ALPHABETIC, ICU_JOIN_CONTROL = 0, 20  # UProperty


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


class Icu:
    """The installed ICU, whose functions carry its version in their names."""

    def __init__(self):
        path = ctypes.util.find_library("icuuc")
        self.library, self.version = ctypes.CDLL(path), re.search(r"\.so\.(\d+)", path).group(1)
        self.char_type = self.function("u_charType")
        self.has_property = self.function("u_hasBinaryProperty")

    def function(self, name):
        function = getattr(self.library, f"{name}_{self.version}")
        function.restype = ctypes.c_int8
        return function

    def numbers(self):
        return {c for c in CODE_POINTS if self.char_type(c) in ICU_NUMBERS}

    def is_word_character(self, c):
        properties = (ICU_ALPHABETIC, ICU_JOIN_CONTROL)
        return self.char_type(c) in ICU_WORD_TYPES or any(self.has_property(c, p) for p in properties)

    def word_characters(self):
        return {c for c in CODE_POINTS if self.is_word_character(c)}


def reference_matches(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    return {c for c in CODE_POINTS if not split.pre_tokenize_str(chr(c))}


def reference_digits():
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {c for c in CODE_POINTS if len(digits.pre_tokenize_str(chr(c) * 2)) == 2}


def reference_word_characters():
    """What keeps a single_word token from being recognised before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("word", single_word=True, normalized=False)])
    return {c for c in CODE_POINTS if not tokenizer.encode("word" + chr(c)).ids}


def print_predicate(name, code_points):
    found = ranges(code_points)
    print(f"bool {name}(char32_t c) {{")
    print(f"  static constexpr std::array<Range, {len(found)}> kRanges = {{{{")
    print("\n".join(f"      {{0x{first:X}, 0x{last:X}}}," for first, last in found))
    print("  }};\n  return IsIn(kRanges, c);\n}\n")


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
    print('#include "compute_node/model/unicode_additions.h"\n')
    print('#include <algorithm>\n#include <array>\n\n#include "absl/types/span.h"\n')
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
    print("}};\n\nstruct Range {\n  char32_t first, last;\n};\n")
    print("bool IsIn(absl::Span<const Range> ranges, char32_t c) {")
    print("  return std::any_of(ranges.begin(), ranges.end(), [c](const Range& range) {")
    print("    return c >= range.first && c <= range.last;\n  });\n}\n\n}  // namespace\n")
    print("std::string_view UnicodeAdditions(std::string_view category) {")
    print("  for (const Addition& addition : kAdditions) {")
    print("    if (addition.category == category) return addition.ranges;\n  }\n  return \"\";\n}\n")
    icu = Icu()
    print_predicate("IsAddedNumeric", reference_digits() - icu.numbers())
    print_predicate("IsAddedWordCharacter", reference_word_characters() - icu.word_characters())
    print("}  // namespace msa::compute_node")
    return 0


if __name__ == "__main__":
    sys.exit(main())
