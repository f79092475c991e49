"""Each rule, broken once in a tree made for it, is found and named."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from check_layering import Checker  # noqa: E402


class LayeringRules(unittest.TestCase):
    def violations(self, files):
        with tempfile.TemporaryDirectory() as root:
            for name, text in files.items():
                path = os.path.join(root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                readme = os.path.join(os.path.dirname(path), "README.md")
                if name.split("/")[0] != "bare" and not os.path.exists(readme):
                    open(readme, "w", encoding="utf-8").close()
            return Checker(root).run()

    def assert_found(self, files, text):
        found = self.violations(files)
        self.assertEqual(len(found), 1, found)
        self.assertIn(text, found[0])

    def test_a_clean_tree_has_none(self):
        self.assertEqual([], self.violations({
            "router/a.cc": '#include "rpc/types.h"\n#include <vector>\n',
            "rpc/b.cc": "#include <grpcpp/grpcpp.h>\n",
            "memory_node/store.cc": "#include <rocksdb/db.h>\n",
            "cli/serve.cc": '#include "router/router.h"\n'}))

    def test_services_never_include_one_another(self):
        self.assert_found({"router/a.cc": '#include "memory_node/shard.h"\n'},
                          "router/ must not include memory_node/shard.h")
        self.assert_found({"compute_node/model/a.h": '#include "router/router.h"\n'},
                          "compute_node/ must not include router/router.h")
        self.assert_found({"common/a.h": '#include "rpc/types.h"\n'}, "common/ must not include")

    def test_rocksdb_has_one_user(self):
        self.assert_found({"memory_node/a.cc": "#include <rocksdb/db.h>\n",
                           "memory_node/b.cc": '#include "rocksdb/env.h"\n'},
                          "only one file may include")
        self.assert_found({"memory_node/a.h": "#include <rocksdb/db.h>\n"}, "a header must not")

    def test_the_log_is_written_in_one_way(self):
        self.assert_found({"common/log.cc": "#include <spdlog/spdlog.h>\n",
                           "memory_node/a.cc": '#include "spdlog/spdlog.h"\n'},
                          "only one file may include spdlog/")

    def test_grpc_stays_in_rpc(self):
        self.assert_found({"router/a.cc": "#include <grpcpp/server.h>\n"}, "stay in rpc/")
        self.assert_found({"cli/a.cc": '#include "msa/v1/router.pb.h"\n'}, "stay in rpc/")
        self.assert_found({"rpc/inner.h": "#include <grpcpp/server.h>\n",
                           "rpc/outer.h": '#include "rpc/inner.h"\n',
                           "cli/a.cc": '#include "rpc/outer.h"\n'},
                          "rpc/outer.h brings gRPC with it")

    def test_cuda_stays_in_its_folder(self):
        self.assert_found({"kernels/cpu/a.cc": "#include <cuda_runtime.h>\n"}, "CUDA headers stay")

    def test_the_router_links_no_store(self):
        self.assert_found({"router/CMakeLists.txt": "msa_library(r DEPS msa_memory_node)\n"},
                          "must not link msa_memory_node")

    def test_code_folders_have_short_readmes(self):
        self.assert_found({"bare/a.cc": ""}, "no README.md")
        self.assert_found({"common/a.cc": "", "common/README.md": "x\n" * 41}, "over 40 lines")

    def test_files_stay_small(self):
        self.assert_found({"common/a.h": "\n" * 201}, "over 200 lines")
        self.assert_found({"common/a.cc": "\n" * 501}, "over 500 lines")

    def test_no_path_of_one_machine_and_nothing_for_later(self):
        self.assert_found({"docs/a.md": "see /wo" + "rk/main\n"}, "a path of one machine")
        self.assert_found({"common/a.cc": "// TO" + "DO: later\n"}, "leaves something")


if __name__ == "__main__":
    unittest.main()
