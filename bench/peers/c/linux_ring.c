/*
 * Single-thread cost of Linux's own drivers/virtio/virtio_ring.c, built for user space with the
 * headers in the kernel's tools/virtio: the same rows, other side and parts as src/one_core.
 *
 * Usage: linux_ring split|packed BUFFERS(1..3) INDIRECT(0|1) EVENT_IDX(0|1) BATCH OPS
 * Prints "RESULT total submit device reap": nanoseconds per operation (parts only if BATCH > 1).
 */
#include <linux/kernel.h>
#include <linux/err.h>
#include <linux/virtio.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_config.h>
#include <sched.h>
#include <time.h>
#include <x86intrin.h>

/* What the kernel's user-space headers leave for the program to define. */
void *__user_addr_min, *__user_addr_max;
void *__kmalloc_fake, *__kfree_ignore_start, *__kfree_ignore_end;

/* The user-space headers leave these out; virtio_ring.c defines them. */
dma_addr_t virtqueue_get_desc_addr(struct virtqueue *vq);
dma_addr_t virtqueue_get_avail_addr(struct virtqueue *vq);
dma_addr_t virtqueue_get_used_addr(struct virtqueue *vq);

#define SIZE 256

static struct virtqueue *vq;
static bool packed;
static unsigned int buffers, used_len;
static struct scatterlist sg[3], *sgs[3];
static unsigned int outs, ins;
static char header[16], data[4096], status[1];

/* The other side: see SplitDevice and PackedDevice in src/one_core/minimal.rs. */
static struct vring_desc *sdesc;
static struct vring_packed_desc *pdesc;
static volatile u16 *avail, *used;
static u16 at, chain;
static bool wrap = true;

static bool notify(struct virtqueue *q)
{
	return true;
}

static void callback(struct virtqueue *q)
{
}

__attribute__((noinline)) static void part_submit(unsigned int n)
{
	while (n--) {
		/* Any non-null cookie will do. */
		if (virtqueue_add_sgs(vq, sgs, outs, ins, data, GFP_ATOMIC))
			abort();
	}
}

static unsigned int complete_split(void)
{
	u16 idx = __atomic_load_n(avail + 1, __ATOMIC_ACQUIRE);
	u16 n = idx - at;

	while (at != idx) {
		unsigned int slot = at & (SIZE - 1);
		volatile u32 *e = (volatile u32 *)(used + 2) + 2 * slot;

		e[0] = avail[2 + slot];
		e[1] = used_len;
		at++;
	}
	__atomic_store_n(used + 1, at, __ATOMIC_RELEASE);
	return n;
}

static unsigned int complete_packed(void)
{
	unsigned int n = 0;

	for (;;) {
		struct vring_packed_desc *d = pdesc + at;
		u16 flags = __atomic_load_n(&d->flags, __ATOMIC_ACQUIRE);
		bool a = flags & (1 << 7), u = flags & (1 << 15);
		unsigned int last = at + chain - 1;

		if (a == u || a != wrap)
			return n;
		if (last >= SIZE)
			last -= SIZE;
		d->id = pdesc[last].id;
		d->len = used_len;
		__atomic_thread_fence(__ATOMIC_RELEASE);
		__atomic_store_n(&d->flags, wrap ? (1 << 7) | (1 << 15) : 0, __ATOMIC_RELAXED);
		at += chain;
		if (at >= SIZE) {
			at -= SIZE;
			wrap = !wrap;
		}
		n++;
	}
}

__attribute__((noinline)) static void part_device(unsigned int n)
{
	if ((packed ? complete_packed() : complete_split()) != n)
		abort();
}

__attribute__((noinline)) static void part_reap(unsigned int n)
{
	unsigned int len;

	while (n--) {
		if (virtqueue_get_buf(vq, &len) != data)
			abort();
	}
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
	static struct virtio_device vdev;
	unsigned int indirect, event_idx, batch, i, turns;
	unsigned long long part[3] = { 0 }, c0, c1;
	double t0, t1, tick;
	long ops;

	if (argc != 7)
		return 2;
	packed = !strcmp(argv[1], "packed");
	buffers = atoi(argv[2]);
	indirect = atoi(argv[3]);
	event_idx = atoi(argv[4]);
	batch = atoi(argv[5]);
	ops = atol(argv[6]);

	INIT_LIST_HEAD(&vdev.vqs);
	spin_lock_init(&vdev.vqs_list_lock);
	vdev.features = 1ULL << VIRTIO_F_VERSION_1;
	if (packed)
		vdev.features |= 1ULL << VIRTIO_F_RING_PACKED;
	if (indirect)
		vdev.features |= 1ULL << VIRTIO_RING_F_INDIRECT_DESC;
	if (event_idx)
		vdev.features |= 1ULL << VIRTIO_RING_F_EVENT_IDX;
	vq = vring_create_virtqueue(0, SIZE, 4096, &vdev, true, false, false, notify, callback, "bench");
	if (!vq)
		abort();
	sdesc = (void *)(unsigned long)virtqueue_get_desc_addr(vq);
	pdesc = (void *)sdesc;
	avail = (void *)(unsigned long)virtqueue_get_avail_addr(vq);
	used = (void *)(unsigned long)virtqueue_get_used_addr(vq);
	/* A polling user: no interrupts wanted. */
	virtqueue_disable_cb(vq);

	i = 0;
	if (buffers > 1) {
		sg_init_one(&sg[i], header, sizeof(header));
		sgs[i] = &sg[i];
		i++, outs++;
	}
	sg_init_one(&sg[i], data, sizeof(data));
	sgs[i] = &sg[i];
	i++, ins++;
	used_len = sizeof(data);
	if (buffers > 2) {
		sg_init_one(&sg[i], status, sizeof(status));
		sgs[i] = &sg[i];
		i++, ins++;
		used_len++;
	}
	chain = indirect && buffers > 1 ? 1 : buffers;

	turns = ops / batch;
	c0 = __rdtsc();
	t0 = now();
	if (batch == 1) {
		for (i = 0; i < turns; i++) {
			part_submit(1);
			part_device(1);
			part_reap(1);
		}
	} else {
		for (i = 0; i < turns; i++) {
			unsigned long long a = __rdtsc(), b, c, d;

			part_submit(batch);
			b = __rdtsc();
			part_device(batch);
			c = __rdtsc();
			part_reap(batch);
			d = __rdtsc();
			part[0] += b - a;
			part[1] += c - b;
			part[2] += d - c;
		}
	}
	t1 = now();
	c1 = __rdtsc();
	tick = (t1 - t0) / (c1 - c0);
	ops = (long)turns * batch;
	printf("RESULT %.3f %.3f %.3f %.3f\n", (t1 - t0) / ops, part[0] * tick / ops, part[1] * tick / ops,
	       part[2] * tick / ops);
	return 0;
}
