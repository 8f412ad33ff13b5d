#!/bin/sh
# The teachers of the published pairs on cifar100.
# Written by scripts/make_scripts.py. TRIAL is the seed; flags of this script go to every command.
set -eu
cd "$(dirname "$0")/.."
python train_teacher.py --model wrn_40_2 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
python train_teacher.py --model resnet56 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
python train_teacher.py --model resnet110 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
python train_teacher.py --model resnet32x4 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
python train_teacher.py --model vgg13 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
python train_teacher.py --model ResNet50 --dataset cifar100 --epochs 240 --batch_size 64 --lr_decay_epochs 150,180,210 --weight_decay 5e-4 --learning_rate 0.05 --trial 0 "$@"
