# Sourced: apt-get against a Debian suite that this machine is not set up for, through the mirror that it *is* set up for.
#
# Everything (lists, caches, sources) lives in one folder, so neither root nor the machine's own sources are touched.

# The base address of the mirror of Debian's main archive, as this machine's apt is configured.
debian_mirror() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | grep -v security | head -n 1)
    # Before the first `apt-get update` no target has an origin yet.
    [[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | awk '$2 == "bookworm" { print $1; exit }')
    [[ -n $mirror ]] || return 1
    echo "$mirror"
}

# suite_apt FOLDER SUITE KIND ARGS…: apt-get ARGS with SUITE as the only source; KIND is deb or deb-src.
suite_apt() {
    local folder=$1 suite=$2 kind=$3 mirror
    shift 3
    mirror=$(debian_mirror) || { echo "no Debian mirror is configured" >&2; return 1; }
    mkdir -p "$folder"/apt/{lists,cache,state}/partial
    touch "$folder/apt/status"
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$folder/apt/sources.list"
    apt-get -qq \
        -o Dir::Etc::SourceList="$folder/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State="$folder/apt/state" -o Dir::State::Lists="$folder/apt/lists" -o Dir::State::Status="$folder/apt/status" \
        -o Dir::Cache="$folder/apt/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}
