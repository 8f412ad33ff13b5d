#!/bin/sh
# All that only a GPU can show, in under 9 minutes; figures go to benchmarks/results/gpu/.
#   benchmarks/gpu.sh                       on a machine with CUDA
#   DEVICE=cpu benchmarks/gpu.sh            the same steps on small networks, to see that they run
# PYTHON chooses the interpreter; the package need not be installed. What a step writes it writes as
# it goes, and a step that takes too long is stopped, so that the others have their turn.
set -u
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
device=${DEVICE:-0}
out=${OUT:-benchmarks/results/gpu}
mkdir -p "$out"
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
failed=""

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
  step "$name" "$limit" "$python" -m distillers.cli.main bench --gpu_id "$device" --out "$out/$name.json" "$@"
}

step tests 80 "$python" -m pytest -q -p no:cacheprovider tests/losses/test_contract.py -k cuda
if [ "$device" = cpu ]; then
  pair="--model_t resnet20 --model_s resnet8"
  bench cifar 120 $pair --methods kd --rounds 1 --threads 2
  bench imagenet 60 --model_t resnet14 --model_s resnet8 --methods kd --rounds 1 --batch_size 4
  step epoch 60 "$python" benchmarks/epoch.py --teacher resnet20 --student resnet8 --batches 4 \
    --rounds 1 --gpu_id cpu --out "$out/epoch.json"
  step scale 120 "$python" benchmarks/scale.py --teacher resnet20 --student resnet8 --methods kd \
    --rounds 1 --gpu_id cpu --out "$out/scale.json"
  step matrix 60 "$python" benchmarks/matrix.py --device cpu --side 512 --out "$out/matrix.json"
  step dali 60 "$python" benchmarks/dali_check.py cpu
else
  step matrix 30 "$python" benchmarks/matrix.py --device cuda --out "$out/matrix.json"
  bench cifar 160 --methods kd crd semckd simkd rrd --rounds 20 --compile
  bench imagenet 100 --model_t ResNet34 --model_s ResNet18 --methods kd --rounds 5 --compile \
    --image_size 224 --num_classes 1000 --batch_size 256 --num_images 1281167
  step epoch 60 "$python" benchmarks/epoch.py --batches 200 --rounds 3 --workers 8 --gpu_id "$device" \
    --compile --precision bf16 --out "$out/epoch.json"
  step dali 40 "$python" benchmarks/dali_check.py gpu
  step scale 40 "$python" benchmarks/scale.py --gpu_id "$device" --out "$out/scale.json"
fi
[ -z "$failed" ] || { echo "failed or stopped:$failed" >&2; exit 1; }
