#!/bin/sh
# Installs a real n8n into a cache folder, some minutes the first time; what is already there is kept.
#   install.sh FOLDER NODE_HOME      NODE_HOME/bin/node is Node 24 or newer, with its npm and its headers
# n8n is 2,200 packages and 2.8 GB. Three of them need help:
#   linkedom                        its newest release asks for a package that is not published everywhere: held back
#   @confluentinc/kafka-javascript  its native build fails on many machines and nothing here uses Kafka, so no package
#                                   runs its install script …
#   sqlite3                         … and its binary is built here, with the headers of that Node
set -eu

VERSION=${N8N_VERSION:-2.41.1}
FOLDER=${1:?usage: install.sh FOLDER NODE_HOME}
NODE_HOME=$(cd "${2:?usage: install.sh FOLDER NODE_HOME}" && pwd)
READY=.ready-$VERSION

say() { printf 'n8n: %s\n' "$*"; }
fail() {
  say "$*" >&2
  exit 1
}

mkdir -p "$FOLDER"
cd "$FOLDER"
if [ -f "$READY" ]; then
  say "n8n $VERSION is in $FOLDER already"
  exit 0
fi

PATH=$NODE_HOME/bin:$PATH
export PATH
major=$(node -p 'process.versions.node.split(".")[0]') || fail "no node in $NODE_HOME/bin: make setup installs it"
[ "$major" -ge 24 ] || fail "n8n $VERSION needs Node 24 or newer, $NODE_HOME/bin/node is $(node -v)"
npm=$NODE_HOME/lib/node_modules/npm/bin/npm-cli.js
gyp=$NODE_HOME/lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js
[ -f "$npm" ] && [ -f "$gyp" ] || fail "no npm with its node-gyp in $NODE_HOME/lib: make setup installs them"
command -v c++ >/dev/null && command -v make >/dev/null && command -v python3 >/dev/null \
  || fail "sqlite3 is built from source: install a C++ compiler, make and python3"

if [ "$(node -p 'try{require("./node_modules/n8n/package.json").version}catch{""}')" != "$VERSION" ]; then
  say "downloading n8n $VERSION (2,200 packages, about 2.8 GB, some minutes) …"
  printf '{"name":"n8n-cache","private":true,"overrides":{"linkedom":"0.18.12"}}\n' >package.json
  node "$npm" install "n8n@$VERSION" --ignore-scripts --no-audit --no-fund --loglevel=error >install.log 2>&1 \
    || { tail -n 20 install.log >&2; fail "npm could not install n8n@$VERSION, the whole log is $FOLDER/install.log"; }
fi

if ! (cd node_modules/sqlite3 && node -e 'require(".")') 2>/dev/null; then
  say "building the sqlite3 binary (about 3 minutes) …"
  (cd node_modules/sqlite3 && node "$gyp" rebuild --nodedir="$NODE_HOME") >sqlite3.log 2>&1 \
    || { tail -n 20 sqlite3.log >&2; fail "sqlite3 could not be built, the whole log is $FOLDER/sqlite3.log"; }
fi

found=$(node node_modules/n8n/bin/n8n --version 2>/dev/null | tail -n 1) || true
[ "$found" = "$VERSION" ] || fail "n8n does not start from $FOLDER (it says \"$found\"): remove that folder and try again"
touch "$READY"
say "n8n $VERSION is ready in $FOLDER"
