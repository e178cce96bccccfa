#!/bin/sh
# Demonstration: environment, data, training, evaluation, plot of predictions. A second run reuses the finished steps.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
make_environment cpu,demo

data=demo/digits
run=demo/run
[ -f "$data/val_list.txt" ] || python -m beit.tools.digits "$data"
if [ ! -f "$run/model.pdparams" ]; then
    # An interrupted demonstration resumes.
    python main_single_gpu.py -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu -resume=auto
fi
python main_single_gpu.py -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu \
    -eval -pretrained="$run/model.pdparams"
plot=$(python -m beit visualize predictions -cfg=configs/demo_digits.yaml -data_path="$data" -output="$run" -device=cpu \
    -pretrained="$run/model.pdparams")

echo
python -c 'import json; r = json.load(open("demo/run/eval.json")); print("top-1 accuracy: %(top1).2f %% of %(count)d images" % r)'
echo "plot of predictions: $plot"
echo "training curves: visualdl --logdir $run/visualdl"
