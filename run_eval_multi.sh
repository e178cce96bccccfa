#!/bin/sh
# Evaluates on 8 GPUs with the documented command. Arguments are appended and override those of the command:
#   sh run_eval_multi.sh -data_path=/data/imagenet -pretrained=/weights/beit_base_patch16_224.pdparams
set -eu
CUDA_VISIBLE_DEVICES="${CUDA_VISIBLE_DEVICES:-0,1,2,3,4,5,6,7}"
export CUDA_VISIBLE_DEVICES
exec "${PYTHON:-python}" main_multi_gpu.py \
    -cfg='./configs/beit_base_patch16_224.yaml' \
    -dataset='imagenet2012' \
    -batch_size=256 \
    -data_path='/dataset/imagenet' \
    -eval \
    -pretrained='./beit_base_patch16_224.pdparams' \
    -amp \
    "$@"
