#!/usr/bin/env bash
# What a GPU says of fadam. On a machine with an NVIDIA GPU, without cargo or network:
#
#   bash run.sh right|fast|deep [--out DIR] [--quick]   (DIR: gpu-results)
#
# right  is it right? versions; PTX and machine code, loaded lazily and eagerly; the doctor, also without the driver's
#        compiler; hashes; every device test one by one, then in parallel (--quick: in parallel alone)
# fast   how fast? the step in every way, single-kernel ceilings, and PyTorch beside it, in turns, twice
# deep   why? compute-sanitizer's tools, ncu, a tensor of more than 2^32 elements
#
# Needs a driver; NVRTC 12.4 or later, in pip's nvidia folders, a toolkit, or on the loader's path; for the peers, Python with
# PyTorch and CuPy; for deep, compute-sanitizer and ncu of a toolkit. What is missing is named and left out. Each stage ends
# within 9 minutes, prints one line a check, goes on after one that fails, and leaves STAGE.jsonl, summary.txt and logs in DIR.
# Exit status: 0, 1 where a check failed, 2 where the stage could not begin.
set -uo pipefail

refuse() { echo "error: $1" >&2; exit 2; }

stage= out=gpu-results quick=false
while [ $# -gt 0 ]; do
    case $1 in
    right | fast | deep) stage=$1 ;;
    --out) [ $# -ge 2 ] || refuse "--out needs a folder"; out=$2; shift ;;
    --quick) quick=true ;;
    --help | -h) sed -n 's/^# \{0,1\}//p' "$0" | sed -n '2,$p'; exit ;;
    *) refuse "\`$1\` is no stage: right, fast or deep; see bash run.sh --help" ;;
    esac
    shift
done
[ -n "$stage" ] || refuse "which stage? right, fast or deep; see bash run.sh --help"

SECONDS=0
limit=530 # seconds of a stage; ten more may pass until a check that is cut off has ended
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out/logs" || refuse "cannot write $out"
out=$(cd "$out" && pwd)
results=$out/$stage.jsonl summary=$out/summary.txt
: >"$results"
touch "$summary"
sed -i "/^$stage /d" "$summary"
failures=0

# ---- the kit ----

kit=$here/kit
if [ -e "$here/kit.tar.xz" ]; then
    [ -w "$here" ] || kit=$out/kit
    if [ ! "$kit/COMMIT" -nt "$here/kit.tar.xz" ]; then
        tar -C "$(dirname "$kit")" -xJf "$here/kit.tar.xz" 2>/dev/null ||
            python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$here/kit.tar.xz" "$(dirname "$kit")" ||
            refuse "cannot unpack $here/kit.tar.xz: neither tar with xz nor python3 can"
        touch "$kit/COMMIT"
    fi
fi
[ -e "$kit/COMMIT" ] || refuse "$here has neither kit.tar.xz nor kit: bash .ci/gpu pack makes them"

# NVRTC: where the loader looks, in pip's folders, in a toolkit. Before what LD_LIBRARY_PATH holds, so that its parts match.
has_nvrtc() { compgen -G "$1/libnvrtc.so*" >/dev/null; } # FOLDER

use_first() { # FOLDER ...
    local folder
    for folder in "$@"; do
        has_nvrtc "$folder" || continue
        export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        return
    done
    return 1
}

find_nvrtc() {
    local folder pip listed
    IFS=: read -ra listed <<<"${LD_LIBRARY_PATH:-}"
    for folder in "${listed[@]}"; do has_nvrtc "$folder" && return; done
    pip=$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)
    use_first "$pip"/cu13/lib "$pip"/cuda_nvrtc/lib && return
    ldconfig -p 2>/dev/null | grep -q 'libnvrtc\.so' && return
    use_first ${CUDA_HOME:+"$CUDA_HOME/lib64"} /usr/local/cuda/lib64 /usr/local/cuda-*/lib64
}
find_nvrtc
export FADAM_REQUIRE_DEVICE=1 RUST_BACKTRACE=1 PYTHONUNBUFFERED=1
export FADAM_TEST_ROOT=$kit FADAM_TEST_SCRATCH=$out/scratch
mkdir -p "$FADAM_TEST_SCRATCH"
PATH=$PATH:/usr/local/cuda/bin

# ---- results ----

text() { # as a JSON string
    printf '"%s"' "$(tr -d '\000-\010\013\014\016-\037' | tr '\n\r\t' '   ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/ *$//')"
}

left() { echo $((limit - SECONDS)); }

left_out() { # NAME WHY
    printf '%s %-24s left out: %s\n' "$stage" "$1" "$2" | tee -a "$summary"
    echo "{\"what\":\"left_out\",\"name\":$(text <<<"$1"),\"why\":$(text <<<"$2")}" >>"$results"
}

# One check: a line here, in the summary and in the results; its output in logs/. Its last line that says something is shown.
check() { # NAME SECONDS COMMAND ...
    local name=$1 most=$2 start=$SECONDS log=$out/logs/$stage-$1.log rc line skipped ok=true
    shift 2
    [ "$most" -le "$(left)" ] || most=$(left)
    if [ "$most" -lt 3 ]; then
        left_out "$name" "no time left"
        return 1
    fi
    timeout -k 5 "$most" "$@" >"$log" 2>&1 </dev/null
    rc=$?
    line=$(grep -aE '^error|panicked at|FAILED|test result|ERROR SUMMARY|everything|the same bits|is not available|left out' "$log" | tail -n 1 | cut -c1-160)
    [ -n "$line" ] || line=$(tail -n 1 "$log" | cut -c1-160)
    skipped=$(grep -ac '^skipped: ' "$log")
    [ "$skipped" = 0 ] || line="$line; skipped: $skipped"
    [ $rc = 124 ] && line="stopped after $most s; $line"
    if [ $rc != 0 ]; then
        ok=false
        failures=$((failures + 1))
    fi
    printf '%s %-24s %s %3s s  %s\n' "$stage" "$name" "$([ $ok = true ] && echo 'ok  ' || echo "FAIL")" $((SECONDS - start)) "$line" | tee -a "$summary"
    echo "{\"what\":\"check\",\"name\":$(text <<<"$name"),\"ok\":$ok,\"rc\":$rc,\"seconds\":$((SECONDS - start)),\"line\":$(text <<<"$line")}" >>"$results"
    return $rc
}

# ---- the machine: one line, the first of the results ----

look=$out/logs/$stage-machine.log
timeout 120 "$kit/bin/doctor" --elements 4096 --seconds 0.01 >"$look" 2>&1
found() { sed -n "$1" "$look" | head -n 1; }
card=$(found 's/^cuda:0 *\(.*\), compute capability.*/\1/p')
[ -n "$card" ] || refuse "no GPU that works: $(grep -aE '^(error|cuda )' "$look" | head -n 1 | sed 's/^error: //')"
nvrtc=$(found 's/^NVRTC *//p')
[ -n "$nvrtc" ] || refuse "no NVRTC: pip install nvidia-cuda-nvrtc; $(grep -a '^error' "$look" | head -n 1)"
if [ "$(printf '%s\n' 12.4 "$nvrtc" | sort -V | head -n 1)" != 12.4 ]; then refuse "NVRTC $nvrtc is too old: 12.4 or later is needed"; fi
emulated=false
case $card in "fadam emulated"*) emulated=true ;; esac
torch=$(python3 -c 'import cupy, torch; print(torch.__version__)' 2>/dev/null)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
driver=${driver:-unknown} # without nvidia-smi
{
    printf '{"what":"machine","stage":"%s","card":%s,' "$stage" "$(text <<<"$card")"
    printf '"compute_capability":"%s",' "$(found 's/.*compute capability \([0-9.]*\).*/\1/p')"
    printf '"memory_gib":%s,' "$(found 's/^cuda:0 .*, \([0-9.]*\) GiB$/\1/p')"
    printf '"driver":%s,"driver_cuda":"%s","nvrtc":"%s",' "$(text <<<"$driver")" "$(found 's/^driver *CUDA //p')" "$nvrtc"
    printf '"torch":%s,' "$([ -n "$torch" ] && text <<<"$torch" || echo null)"
    printf '"commit":%s,"date":"%s","emulated":%s}\n' "$(text <"$kit/COMMIT")" "$(date -u +%F)" "$emulated"
} >>"$results"
echo "$stage on $card, driver $driver (CUDA $(found 's/^driver *CUDA //p')), NVRTC $nvrtc, fadam $(cat "$kit/COMMIT")" | tee -a "$summary"
if $emulated; then echo "$stage on an emulated driver: nothing about time follows" | tee -a "$summary"; fi

# ---- right ----

right() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total --format=csv >"$out/logs/right-gpu.log" 2>&1
    ldconfig -p 2>/dev/null | grep -E 'libcuda\.|nvrtc|ptxjit' >"$out/logs/right-libraries.log"
    local loading elements=1048576
    $emulated && elements=4096
    for loading in LAZY EAGER; do
        CUDA_MODULE_LOADING=$loading check "doctor_${loading,,}" 100 "$kit/bin/doctor" --elements $elements --seconds 0.1
        grep -aE '^(driver|NVRTC|PTX|kernels)' "$out/logs/right-doctor_${loading,,}.log" | sed "s/^/$stage     /" | tee -a "$summary"
        if $emulated; then
            left_out "doctor_no_jit_${loading,,}" "the emulated driver cannot execute machine code"
        else
            CUDA_DISABLE_PTX_JIT=1 CUDA_MODULE_LOADING=$loading check "doctor_no_jit_${loading,,}" 100 \
                "$kit/bin/doctor" --elements $elements --seconds 0.1
        fi
    done
    check same_bits 100 python3 "$kit/tests/same_bits.py" "$kit/bin/replay"
    if $quick; then
        left_out "one by one" "--quick was given"
    else
        one_by_one
    fi
    # All of them, four programs at a time, each with as many threads as it likes.
    check parallel 500 bash -c 'together "$@"' together "$kit"/cuda/* "$kit"/either/*
}

one_by_one() {
    local name
    for name in "$kit"/cuda/*; do check "${name##*/}" 120 "$name" --test-threads=1 --show-output; done
    export FADAM_TEST_DEVICE=cuda
    for name in "$kit"/either/*; do check "${name##*/}" 120 "$name" --test-threads=1 --show-output; done
    unset FADAM_TEST_DEVICE
}

# Ends with how many passed; those that failed are named before.
together() { # PROGRAM ...
    printf '%s\n' "$@" | xargs -P 4 -I{} bash -c 'together_one {}' && echo "everything passed: $# programs"
}

together_one() { # PROGRAM
    local log
    export FADAM_TEST_DEVICE=cuda FADAM_TEST_SCRATCH=$FADAM_TEST_SCRATCH/${1##*/}
    mkdir -p "$FADAM_TEST_SCRATCH"
    log=$("$1" --show-output 2>&1) && return
    printf '%s\nFAILED %s\n' "$log" "${1##*/}"
    return 1
}
export -f together together_one

# ---- fast ----

# The most valuable first: what no time is left for is named.
steps() { # NAME ROUND ARGUMENT ...: of throughput, whose rows go into the results
    local name=$1 round=$2
    shift 2
    case " $* " in
    *" --stream "*) ;;
    *) set -- --stream default "$@" ;;
    esac
    check "$name" 100 "$kit/bin/throughput" --device cuda --json --seconds $seconds "$@" || return
    sed -n "s/^{/{\"what\":\"step\",\"library\":\"fadam\",\"round\":$round,/p" "$out/logs/fast-$name.log" >>"$results"
}

peers() { # NAME ROUND ARGUMENT ...
    local name=$1 round=$2
    shift 2
    if [ -z "$torch" ]; then
        left_out "$name" "Python with PyTorch and CuPy is not installed"
        return
    fi
    check "$name" 100 python3 "$kit/peers.py" --round "$round" --seconds $seconds "$@"
    grep '^{' "$out/logs/fast-$name.log" >>"$results" # rows stand, whatever came after them
}

fast() {
    local seconds=0.25 large=268435456 largest=1073741824 models=(1000000 resnet50 gpt2) round stream shape
    if $emulated; then
        seconds=0.01 large=8192 largest=16384 models=(1000)
    fi
    local bf16="--param bf16 --grad bf16" stochastic="--rounding stochastic" narrow="--moments bf16"
    for round in 1 2; do
        steps "adamw_f32_$round" $round --algorithm adamw --shape $large
        steps "adamw_clip_$round" $round --algorithm adamw --shape $large --clip
        steps "adamw_bf16_$round" $round --algorithm adamw --shape $large $bf16 --master none $narrow $stochastic
        steps "adamw_bf16_nearest_$round" $round --algorithm adamw --shape $large $bf16 --master none $narrow --rounding nearest
        peers "peers_large_$round" $round --shape $large
        for shape in "${models[@]}"; do
            for stream in default own graph; do
                steps "adamw_${shape}_${stream}_$round" $round --algorithm adamw --shape $shape --stream $stream --clip
                steps "adamw_bf16_${shape}_${stream}_$round" $round --algorithm adamw --shape $shape --stream $stream \
                    $bf16 --master none $narrow $stochastic
            done
            steps "adamw_${shape}_unclipped_$round" $round --algorithm adamw --shape $shape
            peers "peers_${shape}_$round" $round --shape $shape
        done
        steps "kernels_$round" $round --algorithm adamw,fadam,fisher_adam --shape $large --stream graph --clip --kappa 1e9
        # The rest of the matrix: each optimizer in each way of keeping parameters and moments.
        matrix "f32_$round" $round
        matrix "remainder_$round" $round $bf16
        matrix "master_$round" $round $bf16 --master f32
        matrix "narrow_$round" $round $bf16 $narrow $stochastic
        matrix "none_$round" $round $bf16 --master none $stochastic
        matrix "none_narrow_$round" $round $bf16 --master none $narrow $stochastic
        steps "adamw_f32_largest_$round" $round --algorithm adamw --shape $largest
        steps "adamw_bf16_largest_$round" $round --algorithm adamw --shape $largest $bf16 --master none $narrow $stochastic
        peers "peers_largest_$round" $round --shape $largest
    done
}

matrix() { # NAME ROUND ARGUMENT ...
    local name=$1 round=$2
    shift 2
    steps "clip_$name" $round --algorithm adamw,fadam,fisher_adam --shape $large --clip --kappa 1e9 "$@"
    steps "plain_$name" $round --algorithm fadam,fisher_adam --shape $large "$@"
    steps "fires_$name" $round --algorithm fadam --shape $large --clip --kappa 1 "$@"
}

# ---- deep ----

deep() {
    local tool
    for tool in memcheck racecheck initcheck synccheck; do
        if ! command -v compute-sanitizer >/dev/null; then
            left_out "$tool" "compute-sanitizer is not installed"
            continue
        fi
        # Refused PTX is expected of the doctor; memory that a step never wrote is not.
        check "${tool}_doctor" 100 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
            "$kit/bin/doctor" --elements 65536 --seconds 0.01
        check "${tool}_parity" 60 compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 \
            "$kit/cuda/cuda_parity" --test-threads=1 adam_has
    done
    local elements=100000000 keeps
    if ! command -v ncu >/dev/null; then
        left_out ncu "ncu is not installed"
    elif ! command -v python3 >/dev/null; then
        left_out ncu "python3, which reads its tables, is not installed"
    else
        for keeps in f32 bf16; do
            local arguments=()
            [ $keeps = f32 ] || arguments=(--param bf16 --grad bf16 --master none --moments bf16 --rounding stochastic)
            check "ncu_$keeps" 100 ncu --csv --page details --clock-control none -c 16 -k 'regex:adam|norm_partial' \
                --section SpeedOfLight --section WarpStateStats --section SchedulerStats --section Occupancy --section LaunchStats \
                "$kit/bin/throughput" --device cuda --seconds 0.01 --algorithm adamw,fadam --shape $elements --clip "${arguments[@]}"
            python3 "$kit/ncu.py" "$keeps" <"$out/logs/deep-ncu_$keeps.log" >>"$results"
        done
    fi
    if $emulated; then
        left_out large "an emulated device takes hours for it"
    else
        check large 200 "$kit/bin/doctor" --large --elements 1048576 --seconds 0.1
    fi
}

"$stage"
rm -rf "$FADAM_TEST_SCRATCH"
checks=$(grep -c '"what":"check"' "$results")
skipped=$(grep -c '"what":"left_out"' "$results")
echo "$stage done: $checks checks, $failures failed, $skipped left out, $SECONDS s; $results" | tee -a "$summary"
[ $failures = 0 ]
