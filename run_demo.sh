#!/bin/sh
# From nothing to an evaluated model and a picture: environment, data, training, evaluation. A second run reuses what is there.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
make_environment cpu,demo

data=demo/digits
run=demo/run
[ -f "$data/val_list.txt" ] || python -m beit.tools.digits "$data"
if [ ! -f "$run/model.pdparams" ]; then
    # A demonstration that was interrupted goes on where it stopped.
    python main_single_gpu.py -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu -resume=auto
fi
python main_single_gpu.py -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu \
    -eval -pretrained="$run/model.pdparams"
picture=$(python -m beit visualize predictions -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu \
    -pretrained="$run/model.pdparams")

echo
python -c 'import json; r = json.load(open("demo/run/eval.json")); print("top-1 accuracy: %(top1).2f %% of %(count)d images" % r)'
echo "picture of predictions: $picture"
echo "training curves: visualdl --logdir $run/visualdl"
