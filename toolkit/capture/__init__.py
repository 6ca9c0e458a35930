# SPDX-License-Identifier: Apache-2.0
"""Packets to files and back: pcapng, pcap, and the reader of both."""

from __future__ import annotations

from toolkit.capture.files import Queueing
from toolkit.capture.session import Capture, CaptureStatistics

__all__ = ["Capture", "CaptureStatistics", "Queueing"]
