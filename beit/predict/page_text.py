"""The words of the page of `beit serve`, in English and Chinese. The browser's language chooses."""

from __future__ import annotations

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
