#!/bin/sh
# Linear probes of the distilled wrn_16_2 on STL-10 and Tiny ImageNet.
# Written by scripts/make_scripts.py. TRIAL is the seed; flags of this script go to every command.
set -eu
cd "$(dirname "$0")/.."
for run in save/students/models/S_wrn_16_2_T_wrn_40_2_cifar100_*; do
  python transfer_student.py --path_s "$run" --dataset stl10 --protocol public "$@"
  python transfer_student.py --path_s "$run" --dataset tinyimagenet --protocol public "$@"
done
