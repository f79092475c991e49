// What an exporter tells, by name and labels.
#ifndef MSA_TESTS_CLI_SCRAPED_H_
#define MSA_TESTS_CLI_SCRAPED_H_

#include <gtest/gtest.h>
#include <httplib.h>

#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "monitoring/exporter.h"

namespace msa::cli {

inline std::map<std::string, double> Scraped(const monitoring::Exporter& exporter) {
  httplib::Client client("127.0.0.1", exporter.port());
  const auto reply = client.Get("/metrics");
  EXPECT_TRUE(reply && reply->status == 200);
  std::map<std::string, double> values;
  const std::vector<std::string> lines = absl::StrSplit(reply->body, '\n', absl::SkipEmpty());
  for (const std::string& line : lines) {
    const size_t space = line.rfind(' ');
    if (line[0] != '#') values[line.substr(0, space)] = std::atof(line.c_str() + space);
  }
  return values;
}

}  // namespace msa::cli

#endif  // MSA_TESTS_CLI_SCRAPED_H_
