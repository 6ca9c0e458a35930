// SPDX-License-Identifier: Apache-2.0
//
// What a receiver in C pays on libxdp's own inline calls, over rings that are filled already: the limit of what
// benchmarks/batches.py measures. Each batch is taken from the RX ring, and its frames are posted to the fill ring again.
// Both rings are left as they were found: nothing was received for anybody else.
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <xdp/xsk.h>

enum { HEAD = 64 };

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

// Receives `batches` batches of at most `most` packets; heads: room for HEAD bytes of each, or NULL. Returns the ns that
// it took, and in *packets how many there were.
uint64_t floor_receive(const struct xsk_ring_cons *rx_ring, const struct xsk_ring_prod *fill_ring, uint8_t *umem,
		       uint64_t frame_size, uint32_t most, uint32_t batches, uint8_t *heads, int64_t *lengths,
		       uint64_t *packets)
{
	struct xsk_ring_cons rx = *rx_ring;	// its owner goes on with its own
	struct xsk_ring_prod fill = *fill_ring;
	uint64_t received = 0, sum = 0, began, took;

	rx.cached_cons = *rx.consumer;
	rx.cached_prod = *rx.producer;
	fill.cached_prod = *fill.producer;
	fill.cached_cons = *fill.consumer + fill.size;
	const uint32_t consumer = rx.cached_cons, producer = fill.cached_prod;

	began = now();
	for (uint32_t batch = 0; batch < batches; batch++) {
		uint32_t from = 0, to = 0, count = xsk_ring_cons__peek(&rx, most, &from);

		if (!count || xsk_ring_prod__reserve(&fill, count, &to) != count)
			break;
		for (uint32_t i = 0; i < count; i++) {
			const struct xdp_desc *desc = xsk_ring_cons__rx_desc(&rx, from + i);

			if (heads) {
				memcpy(heads + (uint64_t)i * HEAD, xsk_umem__get_data(umem, desc->addr), HEAD);
				lengths[i] = desc->len;
			}
			sum += desc->len;
			*xsk_ring_prod__fill_addr(&fill, to + i) = desc->addr & ~(frame_size - 1);
		}
		xsk_ring_prod__submit(&fill, count);
		xsk_ring_cons__release(&rx, count);
		received += count;
	}
	took = now() - began;

	__atomic_store_n(fill.producer, producer, __ATOMIC_RELEASE);
	__atomic_store_n(rx.consumer, consumer, __ATOMIC_RELEASE);
	*packets = received;
	return sum ? took : 0;
}
