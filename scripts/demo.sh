#!/usr/bin/env bash
# The whole life of a memory, on real documents: add, ask, replace, delete, crash, come back.
# `make demo` has installed, built and fetched the weights before. Everything it writes is in
# demo-data/, made anew each time; the server it starts is stopped at the end, however it ends.
set -euo pipefail
cd "$(dirname "$0")/.."

msa=build/release/bin/msa
data=demo-data
server_pid=

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

start_server() {
  rm -f "$data/port"
  "$msa" serve --data-dir "$data/bank" --model models/smollm2-135m-instruct \
    --listen 127.0.0.1:0 --port-file "$data/port" 2>>"$data/server.log" &
  server_pid=$!
  for _ in $(seq 600); do
    [ ! -s "$data/port" ] || break
    if ! kill -0 "$server_pid" 2>/dev/null; then
      echo "the server ended; its log:" >&2
      cat "$data/server.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  MSA_SERVER=127.0.0.1:$(cat "$data/port")
  export MSA_SERVER
  echo "serving at $MSA_SERVER, process $server_pid, log $data/server.log"
}

stop_server() {
  [ -n "$server_pid" ] || return 0
  kill "$server_pid" 2>/dev/null || true
  wait "$server_pid" 2>/dev/null || true
  server_pid=
}
trap stop_server EXIT
trap 'exit 130' INT TERM

# ask QUESTION [FLAG…]
ask() {
  printf '\n\033[1m? %s\033[0m\n' "$1"
  "$msa" ask --max-new-tokens 48 "$@"
}

airports="How many airports are there in Canada?"
internet="What is the internet country code of Anguilla?"
hurricane="Which hurricane devastated the island of Tortola in 2017?"

rm -rf "$data"
mkdir -p "$data"

say "Start the server (one process, one folder)"
start_server

say "Add 300 sections of the World Factbook"
"$msa" add examples/factbook/documents.jsonl

say "Ask three questions"
echo "Two in one round of retrieval, the third in as many as the model likes. The model has 135 million"
echo "parameters: it finds the right documents, and reads prose better than tables of numbers."
ask "$airports" --max-rounds 1
ask "$internet" --max-rounds 1
ask "$hurricane"

say "Replace one document: the hurricane gets another name"
"$msa" add examples/factbook/replacement.jsonl
ask "$hurricane" --max-rounds 1

say "Delete one document: Anguilla's communications"
"$msa" rm central-america-n-caribbean/av:Communications
ask "$internet" --max-rounds 1

say "kill -9, then start again on the same folder"
"$msa" ls --json >"$data/before.jsonl"
kill -9 "$server_pid"
wait "$server_pid" 2>/dev/null || true
start_server
"$msa" ls --json >"$data/after.jsonl"
cmp "$data/before.jsonl" "$data/after.jsonl"
echo "all $(wc -l <"$data/after.jsonl") acknowledged documents are there, with the same revisions"
"$msa" get central-america-n-caribbean/vi:Introduction | grep -o "In 2017, Hurricane [A-Za-z]*"
if "$msa" get central-america-n-caribbean/av:Communications; then
  echo "a deleted document came back" >&2
  exit 1
fi
ask "$hurricane" --max-rounds 1

say "Done. Try your own documents:"
echo "  $msa serve --data-dir my-data --model models/smollm2-135m-instruct"
echo "  $msa add my-folder/        # .txt, .md and .jsonl files"
echo "  $msa ask \"…\""
