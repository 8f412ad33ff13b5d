#!/bin/sh
# The teachers of the published pairs on imagenet.
# Written by scripts/make_scripts.py. TRIAL is the seed; flags of this script go to every command.
set -eu
cd "$(dirname "$0")/.."
python train_teacher.py --model ResNet34 --dataset imagenet --epochs 120 --batch_size 256 --lr_decay_epochs 30,60,90 --weight_decay 1e-4 --num_workers 32 --multiprocessing-distributed --dali gpu --learning_rate 0.1 --trial 0 "$@"
python train_teacher.py --model ResNet50 --dataset imagenet --epochs 120 --batch_size 256 --lr_decay_epochs 30,60,90 --weight_decay 1e-4 --num_workers 32 --multiprocessing-distributed --dali gpu --learning_rate 0.1 --trial 0 "$@"
