#!/usr/bin/env bash
# torchrun: what getrusage says of a rank's peak memory begins with the peak of torchrun.
#
# Versions: torch 2.13.0, Linux 6.18. Seen 2026-12-01.
#
# Expected: a rank is a program of its own, so resource.getrusage(RUSAGE_SELF).ru_maxrss, which training scripts log as
#   their peak memory, is the most that the rank was resident with. Started by hand it is.
# What happens: under torchrun the same script, which imports nothing large and holds a few MB, says hundreds of MB: the
#   launcher's own peak, with torch in it, and the same for every rank. VmHWM of /proc/self/status is right in both.
#   The kernel hands the peak of the memory that a process leaves behind when it executes a program on to that program's
#   ru_maxrss, and subprocess starts a rank in its parent's memory (vfork). Two settings of a small run so
#   have the same "peak" to the byte, until one needs more than the launcher did.
#
# Output (the numbers differ by machine):
#   by hand        ru_maxrss 8 MB, VmHWM 8 MB
#   torchrun       ru_maxrss 221 MB, VmHWM 8 MB
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

cat > "$folder/rank.py" <<'PYTHON'
import resource

peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, int(peak.split()[1]) // 1024)
PYTHON
# From a shell, which is small.
read -r hand_usage hand_peak < <("$folder/venv/bin/python" "$folder/rank.py")
read -r rank_usage rank_peak < <("$folder/venv/bin/torchrun" --nproc-per-node 1 --rdzv-backend static --master-port 29611 \
  "$folder/rank.py" 2> "$folder/said" | tail -1)
printf '%-14s ru_maxrss %d MB, VmHWM %d MB\n' "by hand" "$hand_usage" "$hand_peak" torchrun "$rank_usage" "$rank_peak"
# By hand both are the script's; under torchrun one is, the other is larger by all of torch.
if (( hand_usage < hand_peak + 20 && rank_peak < hand_peak + 20 && rank_usage > rank_peak + 100 )); then
  echo "as described"
else
  cat "$folder/said"
  echo CHANGED
  exit 1
fi
