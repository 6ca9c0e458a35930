# SPDX-License-Identifier: Apache-2.0
"""Which of a driver's counters are losses on the way in: the names of those drivers that have AF_XDP zero-copy."""

from __future__ import annotations

import pytest

from toolkit.net.nic_counters import is_loss

LOSSES = {
    "igb": "rx_no_buffer_count rx_missed_errors rx_queue_0_drops rx_queue_1_alloc_failed rx_fifo_errors rx_crc_errors",
    "ixgbe": "rx_no_buffer_count rx_missed_errors rx_fifo_errors alloc_rx_buff_failed rx_no_dma_resources",
    "i40e": "rx_dropped port.rx_discards rx_alloc_fail rx_crc_errors port.rx_length_errors",
    "ice": "rx_dropped.nic rx_alloc_fail rx_buf_fail_or_alloc_failed rx_oversize.nic_errors",
    "mlx5": "rx_out_of_buffer rx_buff_alloc_err rx_discards_phy rx0_xsk_buff_alloc_err rx_wqe_err",
    "virtio_net": "rx0_drops rx_queue_0_drops",
    "ena": "rx_drops queue_0_rx_page_alloc_fail queue_0_rx_csum_errors rx_overruns",
    "bnxt": "[0]:rx_discards rx_total_discard_pkts [0]:rx_oom_discards",
    "vmxnet3": "rx_buf_alloc_fail_drv_dropped pkts_rx_OOB ring_full_drv_dropped",
    "stmmac": "rx_overflow_err mmc_rx_fifo_overflow rx_missed_cntr",
    "veth": "rx_queue_0_drops",
}
OTHERS = {
    "igb": "rx_packets rx_bytes rx_broadcast rx_multicast rx_smbus rx_long_byte_count os2bmc_tx_by_bmc tx_dropped",
    "dropped by a program, as it was to": "rx_queue_0_xdp_drops rx0_xdp_drops rx_xdp_drop queue_0_rx_xdp_drop",
    "virtio_net": "rx0_xdp_redirects tx0_drops tx_errors collisions tx_timeout_count",
    "others": "port.tx_errors [0]:tx_discards alloc_tx_buff_failed tx_fifo_errors tx_carrier_errors rx_csum_complete",
    "veth": "rx_queue_0_xdp_packets rx_queue_0_xdp_redirect tx_queue_0_xdp_xmit_errors peer_ifindex",
}


@pytest.mark.parametrize("driver", LOSSES)
def test_a_loss_is_found_under_its_name(driver: str) -> None:
    assert [name for name in LOSSES[driver].split() if not is_loss(name)] == []


@pytest.mark.parametrize("driver", OTHERS)
def test_what_arrived_and_what_was_sent_is_none(driver: str) -> None:
    assert [name for name in OTHERS[driver].split() if is_loss(name)] == []
