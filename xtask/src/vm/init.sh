#!/bin/busybox sh
# The guest's first and only program: makes a small Linux of a RAM disk, runs what /runs lists, and
# tells on the second serial port how it ended. Without that word the host takes the run for failed.
/bin/busybox mkdir -p /bin /usr/bin /sbin
/bin/busybox --install -s /bin
# Programs that were brought along come before busybox's of the same name.
export PATH=/usr/bin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
# Namespaces are bound there, by the first `ip netns add` otherwise; several at once would collide.
mkdir -p /run/netns
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
ln -s /proc/self/fd /dev/fd
ip link set lo up

while read -r module; do
	insmod "$module" || echo "guest: $module does not load"
done < /modules/order

echo "guest: Linux $(uname -r), $(nproc) processors, $(free -m | awk '/Mem/ {print $2}') MiB"
export BULKHEAD_BIN=/usr/bin/bulkhead CI=true RUST_BACKTRACE=1
code=0
while read -r limit name command; do
	echo "guest: $name begins"
	begun=$(date +%s)
	(eval "timeout -s KILL $limit env $command") < /dev/null
	ended=$?
	if [ $ended -ne 0 ]; then
		code=1
		echo "guest: $name FAILED with $ended after $(($(date +%s) - begun)) s (limit $limit s)"
	else
		echo "guest: $name passed in $(($(date +%s) - begun)) s"
	fi
done < /runs

# What the kernel itself complained of while tests ran.
if dmesg | grep -E 'BUG:|WARNING:|Oops|general protection'; then
	echo "guest: the kernel complained, see above"
	code=1
fi
echo "guest: exit code $code"
echo "$code" > /dev/ttyS1
sync
poweroff -f
