#!/bin/sh
# What only a GPU can show, in pieces that stand alone, each under 9 minutes, the most valuable first:
#   benchmarks/gpu.sh correctness   contract tests on CUDA, one epoch of each documented command
#   benchmarks/gpu.sh speed         steps of the CIFAR pair: precision, --compile, cached, whole epochs
#   benchmarks/gpu.sh accuracy      CIFAR-10, 240 epochs, resnet32x4 to resnet8x4; called again, it goes on
#   benchmarks/gpu.sh imagenet      224 pixels, ResNet34 to ResNet18, DALI, the loader of folders
#   benchmarks/gpu.sh memory        peak memory of the methods
#   DEVICE=cpu benchmarks/gpu.sh PIECE     the same steps on small networks, to see that they run
# Figures go to benchmarks/results/gpu/ as they come. PYTHON chooses the interpreter, WHEELS a folder of
# packages that it may lack; distillers itself need not be installed. A step that takes too long is
# stopped, so that the others have their turn.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-0}
out=${OUT:-benchmarks/results/gpu}
piece=${1:?"names a piece: correctness, speed, accuracy, imagenet or memory"}
mkdir -p "$out"
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
failed=""
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --find-links "$WHEELS" tyro timm safetensors filelock || exit 1
fi

step() {  # NAME SECONDS COMMAND...
  name=$1 limit=$2
  shift 2
  echo "== $name"
  timeout "$limit" "$@" > "$out/$name.log" 2>&1 || failed="$failed $name"
  tail -n 25 "$out/$name.log"
}

bench() {  # NAME SECONDS FLAGS...
  name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$python" -m distillers bench --gpu_id "$device" --out "$out/$name.json" "$@"
}

# One epoch of a method of the documented commands, on the digits.
epoch() {  # METHOD
  step "epoch_$1" 60 "$python" train_student.py --path_t "$save/teachers/models/resnet20_vanilla" \
    --dataset digits --distill "$1" --model_s resnet8 --epochs 1 --trial 0 --gpu_id "$device" --save_dir "$save" \
    --learning_rate 0.01  # at 0.05 SemCKD diverges from this teacher of one epoch
}

# A student of the CIFAR pair, which goes on where it was stopped.
student() {  # SECONDS METHOD TRIAL
  timeout "$1" "$python" train_student.py --path_t "$save/teachers/models/$teacher"_vanilla \
    --dataset cifar10 --data_dir "$data" --distill "$2" --model_s "$small" --epochs "$epochs" --trial "$3" \
    --gpu_id "$device" --save_dir "$save" --teacher_cache auto --views 8 --resume $fast > "$out/cifar10_$2_$3.log" 2>&1
  tail -n 2 "$out/cifar10_$2_$3.log"
}

correctness() {
  step contract 150 "$python" -m pytest -q -p no:cacheprovider tests/losses/test_contract.py -k cuda
  save=$(mktemp -d)
  step epoch_teacher 60 "$python" train_teacher.py --dataset digits --model resnet20 --epochs 1 --trial 0 \
    --gpu_id "$device" --save_dir "$save"
  for method in kd fitnet at sp vid crd srrl semckd simkd rrd dcd; do epoch $method; done
  rm -rf "$save"
}

speed() {
  if [ "$device" = cpu ]; then
    bench cifar 200 --model_t resnet20 --model_s resnet8 --methods kd --rounds 1 --threads 2
    step epoch 60 "$python" benchmarks/epoch.py --teacher resnet20 --student resnet8 --batches 4 \
      --rounds 1 --gpu_id cpu --out "$out/epoch.json"
    step scale 120 "$python" benchmarks/scale.py --teacher resnet20 --student resnet8 --methods kd \
      --rounds 1 --gpu_id cpu --out "$out/scale.json"
    step matrix 60 "$python" benchmarks/matrix.py --device cpu --side 512 --out "$out/matrix.json"
    return
  fi
  step matrix 30 "$python" benchmarks/matrix.py --device cuda --out "$out/matrix.json"
  bench cifar 300 --methods kd rrd dcd crd simkd --rounds 20 --compile
  step epoch 120 "$python" benchmarks/epoch.py --batches 200 --rounds 3 --workers 8 --gpu_id "$device" \
    --compile --precision bf16 --out "$out/epoch.json"
  step scale 60 "$python" benchmarks/scale.py --gpu_id "$device" --out "$out/scale.json"
}

accuracy() {
  save=${SAVE:-save/gpu} data=${DATA:-data} teacher=resnet32x4 small=resnet8x4 epochs=240 fast="--precision bf16"
  [ "$device" != cpu ] || { teacher=resnet8 small=resnet8 epochs=1 fast=""; }
  step cifar10_teacher 500 "$python" train_teacher.py --dataset cifar10 --data_dir "$data" --model $teacher \
    --epochs $epochs --trial 0 --gpu_id "$device" --save_dir "$save" --resume $fast
  began=$(date +%s)
  for trial in 1 2 3; do
    for method in kd rrd dcd crd simkd; do
      left=$((500 - $(date +%s) + began))
      [ "$left" -gt 20 ] || break 2
      student "$left" $method $trial &
      [ "$method" = rrd ] || [ "$method" = crd ] || [ "$method" = simkd ] && wait  # two at once
    done
    [ "$device" != cpu ] || break
  done
  wait
  step cifar10_report 60 "$python" -m distillers report "$save"
}

imagenet() {
  if [ "$device" = cpu ]; then
    bench imagenet 60 --model_t resnet14 --model_s resnet8 --methods kd --rounds 1 --batch_size 4
    step dali 60 "$python" benchmarks/dali_check.py cpu
    return
  fi
  bench imagenet 240 --model_t ResNet34 --model_s ResNet18 --methods kd --rounds 5 --compile \
    --image_size 224 --num_classes 1000 --batch_size 256 --num_images 1281167
  step dali 60 "$python" benchmarks/dali_check.py gpu
  step folder 200 "$python" benchmarks/data.py --folder
}

memory() {
  if [ "$device" = cpu ]; then
    bench memory 200 --model_t resnet20 --model_s resnet8 --methods kd --rounds 1 --threads 2 --memory
    return
  fi
  bench memory 500 --methods kd rrd dcd crd simkd semckd --rounds 3 --memory
}

case $piece in
  correctness | speed | accuracy | imagenet | memory) "$piece" ;;
  *) echo "gpu.sh: there is no piece $piece" >&2; exit 2 ;;
esac
[ -z "$failed" ] || { echo "failed or stopped:$failed" >&2; exit 1; }
