# shellcheck shell=sh
# What banger asks git in a guest, run there by whatever sh the image has: sh -c THIS banger VERB BASE SINCE LIMIT FORM
#
#   look    a header; what differs from the head; and, when the head is not SINCE, "=" and what differs from SINCE
#   patch   a header; what differs from the head and "=", when that is not BASE; what differs from BASE, and the patch
#   tracked the same for the head as BASE and files that git knows already, the list leaving out what objects they are now
#   mbox    a header, and the commits after BASE
#   pack    a header, and a pack of the objects that commits after BASE have and BASE has not
#
# BASE and SINCE are commits (hexadecimal) or empty. LIMIT: "kept" keeps files that are not there out of a patch.
# FORM: "plain" tells no renames.
# Ends with 90: no git, 91: no repository, 92: no such BASE, 93: no room for the temporary index, 94: git cannot read a file,
# 95: "tracked" does not tell everything, "patch" does.
#
# The repository's configuration is the guest's own and may say anything: what could make the answer unfit for the host is
# overridden. Nothing of the repository is changed: files that are not in its object database go to a temporary one, and
# the index that names them is a temporary one too, beside the real one, because git renames what it writes.
set -u
verb=$1 base=$2 since=$3 limit=$4 renames='-M -l400' what='--cached --ignore-submodules=none'
# A patch does not say of a link that is renamed as it is that it is one, and git apply takes what is put in its place for
# something behind it. Then renames are not told.
[ "$5" != plain ] || renames=--no-renames

command -v git >/dev/null 2>&1 || exit 90
unset GIT_INDEX_FILE GIT_COMMON_DIR GIT_PREFIX GIT_NAMESPACE GIT_OBJECT_DIRECTORY GIT_ALTERNATE_OBJECT_DIRECTORIES \
  GIT_EXTERNAL_DIFF GIT_DIFF_OPTS GIT_CONFIG GIT_CONFIG_PARAMETERS GIT_CONFIG_COUNT GIT_LITERAL_PATHSPECS \
  GIT_GLOB_PATHSPECS GIT_NOGLOB_PATHSPECS GIT_ICASE_PATHSPECS GIT_ATTR_SOURCE GIT_GRAFT_FILE GIT_SHALLOW_FILE \
  GIT_REPLACE_REF_BASE GIT_INDEX_VERSION GIT_TRACE GIT_TRACE2 GIT_TRACE2_EVENT GIT_TRACE2_PERF CDPATH
# Named, the repository is not searched in the directories above, nor is it asked who owns it.
export GIT_DIR=.git GIT_WORK_TREE=. GIT_NO_REPLACE_OBJECTS=1 GIT_NO_LAZY_FETCH=1 GIT_OPTIONAL_LOCKS=0 \
  GIT_TERMINAL_PROMPT=0 LC_ALL=C
# For git a thread per 500 files, which is slower than none where they find no processors.
threads=true
[ -d /sys/devices/system/cpu/cpu2 ] || threads=false

g() {
  git -c core.fsmonitor= -c core.hooksPath=/dev/null -c safe.directory='*' -c gc.auto=0 -c maintenance.auto=false \
    -c core.quotePath=true -c core.safecrlf=false -c core.preloadIndex=$threads -c advice.addEmbeddedRepo=false "$@"
}

differences() {
  # shellcheck disable=SC2086 # they are words
  g -c diff.suppressBlankEmpty=false -c diff.relative=false diff $what --raw --no-abbrev $renames --no-color \
    --no-ext-diff --no-textconv --submodule=short -O/dev/null "$@" --
}

patch() {
  differences -p --binary --full-index --src-prefix=a/ --dst-prefix=b/ -U3 --inter-hunk-context=0 "$@"
}

commits() { # how many there are after $1, which may be none or unknown, up to $2
  if [ -z "$2" ] || [ "$1" = "$2" ]; then
    count=0
  elif [ -z "$1" ]; then
    count=$(g rev-list --count "$2") || exit 91
  else
    count=$(g rev-list --count "$2" "^$1" 2>/dev/null) || count=$(g rev-list --count "$2") || exit 91
  fi
}

if [ -d .git ]; then
  dir=.git objects=.git/objects
elif [ -f .git ]; then
  dir=$(g rev-parse --git-dir) && objects=$(g rev-parse --git-path objects) || exit 91
else
  exit 91
fi

# Most heads are told by a file or two, which saves a process.
head='' line=''
[ ! -f "$dir/HEAD" ] || IFS= read -r line <"$dir/HEAD"
case $line in
'ref: refs/'*)
  line=$dir/${line#ref: }
  [ ! -f "$line" ] || IFS= read -r head <"$line"
  ;;
*) head=$line ;;
esac
case ${#head}$head in
*[!0-9a-f]* | 0) head= ;;
40* | 64*) ;;
*) head= ;;
esac
if [ -z "$head" ]; then
  head=$(g rev-parse -q --verify 'HEAD^{commit}') || [ $? = 1 ] || exit 91
fi

case $verb in patch | tracked) base=${base:-$head} ;; esac
if [ -n "$base" ] && [ "$base" != "$head" ]; then
  base=$(g rev-parse -q --verify "$base^{commit}") || exit 92
fi
commits "$since" "$head"
echo "head $head"
echo "base $base"
echo "commits $count"
commits "$since" "$base"
echo "left $count"

if [ "$verb" = mbox ] || [ "$verb" = pack ]; then
  commits "$base" "$head"
  echo "range $count"
  echo
  if [ "$count" = 0 ]; then
    exit 0
  elif [ "$verb" = pack ]; then
    printf '%s\n' "$head" ${base:+"^$base"} |
      g -c pack.packSizeLimit=0 pack-objects --revs --thin --stdout --delta-base-offset -q
  else
    # A lone revision would be taken for what to begin at.
    if [ -n "$base" ]; then set -- "$head" "^$base"; else set -- --root "$head"; fi
    if g -c diff.relative=false log --format= --raw --no-renames --diff-filter=D --no-color --no-ext-diff \
      --ignore-submodules=all "$@" -- | grep -q '^:120000 '; then renames=--no-renames; fi
    # shellcheck disable=SC2086
    g -c diff.suppressBlankEmpty=false -c diff.relative=false -c format.numbered=auto \
      -c format.signOff=false -c format.useAutoBase=false -c format.forceInBodyFrom=false \
      -c format.encodeEmailHeaders=true -c format.mboxrd=false -c log.showSignature=false -c log.mailmap=false \
      -c i18n.logOutputEncoding=UTF-8 \
      format-patch --stdout --subject-prefix=PATCH --no-attach --no-signature --no-cover-letter --no-thread --no-to \
      --no-cc --no-add-header --no-notes --no-from --no-stat -p $renames --binary --full-index --no-color --no-ext-diff \
      --no-textconv --src-prefix=a/ --dst-prefix=b/ -U3 --inter-hunk-context=0 --submodule=short \
      --ignore-submodules=none -O/dev/null "$@" --
  fi
  exit
fi

own_index() {
  for old in "$dir"/banger-export.*; do
    # What another one of these left that was killed.
    if [ -d "$old" ] && ! kill -0 "${old##*.}" 2>/dev/null; then rm -rf "$old"; fi
  done
  tmp=$dir/banger-export.$$
  trap 'rm -rf "$tmp"' EXIT
  trap 'exit 129' HUP INT TERM PIPE
  mkdir "$tmp" || exit 93
  if [ -f "$dir/index" ]; then
    # A copy with its times, by which git knows what it need not read. git replaces an index and never writes into it, so a
    # second name is as good as a copy; where a link leads it would write.
    { [ ! -L "$dir/index" ] && ln "$dir/index" "$tmp/index" 2>/dev/null; } || cp -p "$dir/index" "$tmp/index" || exit 93
  fi
  export GIT_INDEX_FILE="$tmp/index"
}

if [ "$verb" = tracked ]; then
  echo "missing 0"
  echo
  { [ -n "$head" ] && [ -f "$dir/index" ] && [ ! -e .gitmodules ] && [ ! -f "$dir/info/sparse-checkout" ]; } || exit 95
  # git diff writes the index, locks or not, when files were only touched.
  own_index
  (new=$(g ls-files -o --exclude-standard --directory --no-empty-directory) && [ -z "$new" ]) &
  what=--ignore-submodules=dirty
  patch "$head" || exit
  wait $! || exit 95
  exit 0
fi

nothing=''
if [ -z "$head" ] || [ -z "$base" ] || [ -z "$since" ]; then
  nothing=$(g hash-object -t tree /dev/null) || exit 91
fi

own_index
case $objects in
*[:\"]*) ;; # It has no form in a list.
*) export GIT_OBJECT_DIRECTORY="$tmp" GIT_ALTERNATE_OBJECT_DIRECTORIES="$objects" ;;
esac

add() {
  g -c core.splitIndex=false -c core.looseCompression=0 -c core.fsync=none -c index.skipHash=true \
    add --ignore-errors "$@"
}
all=-A
[ "$limit" != kept ] || all='--no-all .'
sparse=''
[ ! -f "$dir/info/sparse-checkout" ] || sparse=--sparse
# shellcheck disable=SC2086 # they are words
add $all $sparse
status=$?
if [ $status = 129 ]; then
  # An older git has no --sparse, and needs none.
  # shellcheck disable=SC2086
  add $all
  status=$?
fi
left=0
if [ $status = 1 ]; then
  # Repositories within this one that have no commit cannot be in it, and are the only thing that may be missing.
  left=$(g ls-files -mo --exclude-standard | {
    count=0
    while IFS= read -r name; do
      case $name in
      */ | */\") count=$((count + 1)) ;;
      *) exit 1 ;;
      esac
    done
    echo $count
  }) || exit 94
elif [ $status != 0 ]; then
  exit $status
fi
echo "missing $left"
echo

if [ "$verb" = look ]; then
  differences "${head:-$nothing}" || exit
  [ "$head" = "$since" ] && exit
  echo '='
  [ -z "$since" ] || g rev-parse -q --verify "$since^{commit}" >/dev/null || since=
  [ -n "$since$nothing" ] || nothing=$(g hash-object -t tree /dev/null) || exit
  differences "${since:-$nothing}"
else
  if [ "$base" != "$head" ]; then
    differences "${head:-$nothing}" || exit
    echo '='
  fi
  patch "${base:-$nothing}"
fi
