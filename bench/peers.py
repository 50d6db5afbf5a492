# SPDX-License-Identifier: MIT
"""The list of all codecs, with their settings and options. How they are called is in codecs.py and learned.py."""

from __future__ import annotations

from typing import Any

from bench.codecs import JpegliPeer, MozJpegPeer, Peer, PillowPeer, PluginPeer, SharpWebpPeer, VvcPeer
from bench.errors import BenchError
from bench.learned import CompressAIPeer, VqcodecPeer

# Points of each curve, from its lowest rate to about its highest useful one
_JPEG = (3, 5, 8, 12, 18, 25, 35, 50, 65, 80, 90, 95)
_JPEGLI = (5, 10, 15, 25, 35, 50, 65, 75, 85, 92, 96)
_WEBP = (0, 5, 15, 30, 50, 70, 85, 94)
_AVIF = (8, 18, 28, 38, 48, 58, 68, 78, 88)
_JXL = (5, 15, 30, 45, 60, 70, 80, 88, 94)
_VVC = (16, 20, 24, 28, 32, 36, 40, 44, 48)
_VQC = (5, 15, 30, 45, 60, 75, 90, 100)
_MSE = ("psnr",)  # what photo-1 learned from, and the published models


def _avif(name: str, label: str, tune: str, subsampling: str, speed: int) -> PillowPeer:
    options: dict[str, Any] = {"speed": speed, "subsampling": subsampling, "advanced": {"tune": tune}}
    stated = f"tune={tune}, {subsampling}, speed {speed}"
    return PillowPeer(name, label, _AVIF, stated, "AVIF", "avif", options=options)


def _jxl(name: str, label: str, effort: int) -> PluginPeer:
    return PluginPeer(name, label, _JXL, f"effort {effort}, 4:4:4", "JXL", "pillow-jxl-plugin",
                      options={"effort": effort}, module="pillow_jxl")  # fmt: skip


def _heic(name: str, label: str, tune: str) -> PluginPeer:
    settings = (5, 12, 20, 28, 36, 44, 52, 60, 68)
    return PluginPeer(name, label, settings, f"x265, 4:2:0, tune={tune}", "HEIF", "pillow-heif",
                      options={"enc_params": {"tune": tune}}, module="pillow_heif",
                      register="register_heif_opener")  # fmt: skip


def _vqcodec(name: str, label: str, stated: str, **options: Any) -> VqcodecPeer:
    return VqcodecPeer(name, label, _VQC, stated, **{"trained_on": _MSE, **options})


def _compressai(architecture: str, label: str, best: int) -> CompressAIPeer:
    settings = tuple(range(1, best + 1))
    stated = "trained for MSE, as CompressAI ships it"
    return CompressAIPeer(architecture, label, settings, stated, architecture, trained_on=_MSE)


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        PillowPeer("jpeg", "JPEG", _JPEG, "4:2:0, optimised", "JPEG", "libjpeg_turbo",
                   options={"optimize": True, "subsampling": 2}),
        PillowPeer("jpeg444", "JPEG 4:4:4", _JPEG, "4:4:4, optimised", "JPEG", "libjpeg_turbo",
                   options={"optimize": True, "subsampling": 0}),
        JpegliPeer("jpegli", "jpegli", _JPEGLI, "4:2:0, progressive"),
        MozJpegPeer("mozjpeg", "MozJPEG", _JPEG, "4:2:0, progressive, trellis, quantisation table 3"),
        PillowPeer("webp", "WebP", _WEBP, "method 6", "WEBP", "webp", options={"method": 6}),
        SharpWebpPeer("webp-sharp", "WebP sharp", _WEBP, "method 6, sharp YUV"),
        _avif("avif-psnr", "AVIF psnr 4:2:0", "psnr", "4:2:0", 6),
        _avif("avif-psnr-444", "AVIF psnr 4:4:4", "psnr", "4:4:4", 4),
        _avif("avif-psnr-slow", "AVIF psnr 4:4:4 slow", "psnr", "4:4:4", 1),
        _avif("avif-iq", "AVIF iq 4:2:0", "iq", "4:2:0", 6),
        _avif("avif-iq-444", "AVIF iq 4:4:4", "iq", "4:4:4", 4),
        _avif("avif-iq-slow", "AVIF iq 4:4:4 slow", "iq", "4:4:4", 1),
        PillowPeer("jpeg2000", "JPEG 2000", (24, 26, 28, 30, 33, 36, 39, 42), "irreversible, target PSNR in dB",
                   "JPEG2000", "jpg_2000", "quality_layers",
                   options={"quality_mode": "dB", "irreversible": True, "mct": 1}),
        _jxl("jxl", "JPEG XL", 7),
        _jxl("jxl-9", "JPEG XL effort 9", 9),
        _heic("heic", "HEIC", "ssim"),
        _heic("heic-psnr", "HEIC psnr", "psnr"),
        VvcPeer("vvc", "VVC", _VVC, "vvenc, preset medium, 4:2:0, 10 bits"),
        VvcPeer("vvc-eye", "VVC perceptual", _VVC, "vvenc, preset medium, 4:2:0, 10 bits, perceptual QP adaptation",
                perceptual=True),
        VvcPeer("vvc-slow", "VVC slower", _VVC, "vvenc, preset slower, 4:2:0, 10 bits", preset="slower"),
        _vqcodec("vqcodec", "vqcodec", "effort 5"),
        _vqcodec("vqcodec-psnr", "vqcodec psnr", "tune psnr, effort 5", tune="psnr"),
        _vqcodec("vqcodec-eye", "vqcodec eye", "tune eye, effort 5", tune="eye", trained_on=("psnr", "ms_ssim")),
        _vqcodec("vqcodec-e1", "vqcodec effort 1", "effort 1", effort=1),
        _vqcodec("vqcodec-e7", "vqcodec effort 7", "effort 7", effort=7),
        _vqcodec("vqcodec-e9", "vqcodec effort 9", "effort 9", effort=9),
        _vqcodec("vqcodec-realistic", "vqcodec realistic", "effort 5, realistic decoder", decoder="realistic"),
        _vqcodec("vqcodec-diffusion", "vqcodec diffusion", "effort 5, diffusion decoder, 4 steps", decoder="diffusion"),
        _compressai("bmshj2018-hyperprior", "Hyperprior (CompressAI)", 8),
        _compressai("cheng2020-anchor", "Cheng 2020 (CompressAI)", 6),
    )
}  # fmt: skip

# The row that stands for vqcodec: tune psnr where PSNR is judged, tune eye elsewhere, once encode has tunes.
FOCUS = ("vqcodec-psnr", "vqcodec-eye", "vqcodec")
# Quick, and every family at its best for its speed; a tune that the model lacks is left out
DEFAULT_PEERS = (
    "jpeg", "jpegli", "webp-sharp", "avif-psnr-444", "avif-iq-444", "jxl", "vqcodec-psnr", "vqcodec-eye",
)  # fmt: skip
# Minutes per picture
SLOW_PEERS = ("avif-psnr-slow", "avif-iq-slow", "vvc-slow", "vqcodec-e9", "vqcodec-realistic")
# What the short table, the figures and the slider show, of those that were measured, best first
SHORT_PEERS = (
    "vqcodec-psnr", "vqcodec-eye", "vqcodec", "avif-psnr-444", "avif-iq-444", "vvc", "jxl-9", "jxl", "webp-sharp",
    "webp", "jpegli", "jpeg",
)  # fmt: skip
MAX_SHORT = 8
# What the page's slider shows: each is asked for a dozen files of every picture
SLIDE_PEERS = ("vqcodec-psnr", "vqcodec-eye", "vqcodec", "avif-psnr-444", "avif-iq-444", "jxl", "webp-sharp", "jpegli",
               "jpeg")  # fmt: skip


def realistic(realism: float) -> VqcodecPeer:
    """vqcodec's realistic decoder with that much realism, 0 (the faithful picture) to 1."""
    name = "vqcodec-realistic" if realism == 1 else f"vqcodec-realistic-{realism:g}"
    stated = f"effort 5, realistic decoder, realism {realism:g}"
    return _vqcodec(name, f"vqcodec realistic {realism:g}", stated, decoder="realistic", realism=realism)


def choose(names: str) -> list[Peer]:
    """Peers by their names with commas in between; "default", "all" but the slow ones, and "slow" stand for lists.

    Raises:
        BenchError: an unknown name.
    """
    every = tuple(name for name in PEERS if name not in (*SLOW_PEERS, "vqcodec"))  # vqcodec is one of its tunes
    lists = {"all": every, "default": DEFAULT_PEERS, "slow": SLOW_PEERS}
    wanted: list[str] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        wanted += [one for one in lists.get(name, (name,)) if one not in wanted]
    unknown = [name for name in wanted if name not in PEERS]
    if unknown or not wanted:
        known = f"{', '.join(PEERS)}, {', '.join(lists)}"
        raise BenchError(f"unknown codec {', '.join(unknown) or '(none)'}; known are {known}")
    return [PEERS[name] for name in wanted]
