"""The words of the page of `beit serve`, in English and Chinese. The browser's language chooses."""

from __future__ import annotations

import re
from string import Formatter

TEXT: dict[str, dict[str, str]] = {
    "en": {
        "limits": "Drop an image, choose one or take a photo: {formats}, up to {megabytes:g} MB and "
        "{megapixels:g} million pixels. The image stays on the machine that serves this page.",
        "heic": "Browsers cannot read HEIC photos. Save the photo as JPEG, or on the iPhone choose Settings, Camera, Formats, "
        "Most Compatible.",
        "probability": "probability",
        "share of the image": "share of the image",
        "drawn": "input of the model and result",
        "examples": "examples",
        "refused": "**This file cannot be used:** {reason}",
        "attention through all blocks": "The square is the input of the model: the image, resized and cropped. The "
        "colors are its attention through all blocks (attention rollout). Bright patches contribute more to the "
        "features that are classified than dark ones. This does not explain why the class was chosen.",
        "attention of the last block": "The square is the input of the model: the image, resized and cropped. The "
        "colors are the attention of the last block, averaged over its heads. Bright patches contribute more to the "
        "features that are classified than dark ones. This does not explain why the class was chosen.",
        "the input of the model (exported models have no attention maps)": "The square is the input of the model: the image, "
        "resized and cropped. Exported models have no attention maps.",
        "the class of each pixel": "The colors are the class of each pixel; the legend names them.",
    },
    "zh": {
        "limits": "拖入、选择或拍摄一张图片：{formats}，不超过 {megabytes:g} MB 和 {megapixels:g} 百万像素。"
        "图片只留在提供此网页的机器上。",
        "heic": "浏览器无法读取 HEIC 照片。请将照片存为 JPEG，或在 iPhone 上选择“设置”“相机”“格式”“兼容性最佳”。",
        "probability": "概率",
        "share of the image": "占图片的比例",
        "drawn": "模型的输入与结果",
        "examples": "示例",
        "refused": "**无法使用此文件：** {reason}",
        "attention through all blocks": "方形图是模型的输入：缩放并裁剪后的图片。颜色是贯穿所有 block 的注意力（attention rollout）。"
        "较亮的图块对用于分类的特征贡献较大，较暗的较小。这并不能说明模型为何选择该类别。",
        "attention of the last block": "方形图是模型的输入：缩放并裁剪后的图片。颜色是最后一个 block 的注意力，对各个 head 取平均。"
        "较亮的图块对用于分类的特征贡献较大，较暗的较小。这并不能说明模型为何选择该类别。",
        "the input of the model (exported models have no attention maps)": "方形图是模型的输入：缩放并裁剪后的图片。"
        "导出的模型没有注意力图。",
        "the class of each pixel": "颜色表示每个像素的类别，图例给出名称。",
    },
}
"""Language -> name of a text, or caption of a `PageResult` -> text, with the fields of `str.format`."""

REASONS: dict[str, dict[str, str]] = {
    "no such file": {"zh": "文件不存在"},
    "a folder, not an image": {"zh": "这是文件夹，不是图片"},
    "an empty file (0 bytes)": {"zh": "文件为空（0 字节）"},
    "an HTML page, not an image: the download went wrong": {"zh": "这是 HTML 网页，不是图片：下载出错"},
    "a git-lfs pointer, not an image: run `git lfs pull`": {
        "zh": "这是 git-lfs 指针，不是图片：请运行 `git lfs pull`"
    },
    "begins with zeros only: the file was not written to its end": {"zh": "文件开头全为零：没有完整写入"},
    "this installation does not decode {} images: {}": {
        "en": "this page does not read {0} images; convert the image to JPEG",
        "zh": "此网页无法读取 {0} 图片，请转换为 JPEG",
    },
    "no image in one of the formats {}, or one with a damaged header": {
        "zh": "不是以下格式之一的图片，或文件头已损坏：{0}"
    },
    "{} MB; files of up to {} MB are accepted": {"zh": "{0} MB；只接受不超过 {1} MB 的文件"},
    "its format is {}; the page takes {}": {"zh": "格式为 {0}；此网页接受 {1}"},
    "{} x {} pixels are more than DATA.MAX_PIXELS={} allows": {
        "en": "{0} x {1} pixels; images of up to {2} pixels are accepted",
        "zh": "{0} x {1} 像素；只接受不超过 {2} 像素的图片",
    },
    "more pixels than Pillow's own limit and DATA.MAX_PIXELS={} allow ({})": {
        "en": "images of up to {0} pixels are accepted",
        "zh": "只接受不超过 {0} 像素的图片",
    },
    "cannot be decoded: integer pixels from {} to {}; expected 16 bits, 0 to 65535": {
        "zh": "无法解码：整数像素值为 {0} 至 {1}；应为 16 位，0 至 65535"
    },
    "cannot be decoded: float pixels from {} to {}; expected 0 to 1": {
        "zh": "无法解码：浮点像素值为 {0} 至 {1}；应为 0 至 1"
    },
    "cannot be decoded: a JPEG of {} or more scans, at most {} are read": {
        "zh": "无法解码：JPEG 至少有 {0} 次扫描，最多读取 {1} 次"
    },
    "cannot be decoded: a run-length encoded BMP of {} x {} pixels, at most {} are read": {
        "zh": "无法解码：游程编码的 BMP 有 {0} x {1} 像素，最多读取 {2} 像素"
    },
    "cannot be decoded: a tile of {} pixels for an image of {} x {}": {
        "zh": "无法解码：{1} x {2} 的图片却有 {0} 像素的分块"
    },
    "cannot be decoded: a JPEG 2000 of {} code blocks, at most {} are read": {
        "zh": "无法解码：JPEG 2000 有 {0} 个码块，最多读取 {1} 个"
    },
    "cannot be decoded: {}": {"zh": "无法解码：文件已损坏或不完整"},  # the field is a text of the decoder
    "the image is not an upload of this page, or is no longer kept; upload it again": {
        "zh": "该图片不是在此网页上传的，或已不再保留；请重新上传"
    },
    'expected "data": [FILE], where FILE is an uploaded image': {
        "zh": '应为 "data": [FILE]，其中 FILE 是已上传的图片'
    },
    'expected an uploaded image {{"path": PATH, "meta": {}}}': {
        "zh": '应为已上传的图片 {{"path": PATH, "meta": {0}}}'
    },
    "the request is not JSON": {"zh": "请求不是 JSON"},
    "the request is larger than {} MB": {"zh": "请求大于 {0} MB"},
    "the request did not arrive in time": {"zh": "请求没有及时到达"},
    "{} {} is not a request of this page{}": {"zh": "{0} {1} 不是此网页的请求"},
    "the host {} is not that of this page; to serve the page under another name pass --allow-host NAME": {
        "zh": "主机 {0} 不是此网页的主机；要以其他名称提供此网页，请使用 --allow-host NAME"
    },
    "requests from pages of other sites are refused": {"zh": "拒绝来自其他网站页面的请求"},
}
"""Reason of an `ImageError` or a `RefusedError`, `{}` for its fields -> language -> what the page shows. Without "en" the
reason itself. Of several that fit a reason the first one is taken."""


def shown_reason(reason: str, language: str) -> str:
    """The reason of an `ImageError` or a `RefusedError` in a language of the page.

    Args:
        reason: as raised, in English.
        language: a key of `TEXT`.
    """
    for template, words in REASONS.items():
        parts = Formatter().parse(template)
        pattern = "".join(re.escape(text) + ("" if name is None else "(.*)") for text, name, _, _ in parts)
        if found := re.fullmatch(pattern, reason, re.DOTALL):
            return words[language].format(*found.groups()) if language in words else reason
    return reason


def language_of(accepted: str | None) -> str:
    """The first language of an `Accept-Language` header that the page has, such as `zh` for `zh-CN,en;q=0.8`; else `en`.

    Browsers send their languages in the order of preference.

    Args:
        accepted: the header; None where there is none.
    """
    for part in (accepted or "").split(","):
        language = part.strip().lower()[:2]
        if language in TEXT:
            return language
    return "en"
