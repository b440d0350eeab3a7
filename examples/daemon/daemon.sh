#!/bin/sh
# Reports that a device is there, with nothing but curl: ./daemon.sh USER DEVICE [URL]
# The environment has its token, as DAEMON_TOKEN.
set -eu
user=$1 device=$2 url=${3:-http://127.0.0.1:8787}
ttl_ms=12000 seq=0

beat() {
  seq=$((seq + 1))
  curl -sS --fail-with-body -m 5 "$url/api/v1/daemon/presence/heartbeat" \
    -H "Authorization: Bearer $DAEMON_TOKEN" \
    -d '{"schema_version":1,"source":"daemon-sh","user_id":"'"$user"'","device_id":"'"$device"'",
         "status":"'"$1"'","sent_at_ms":'"$(date +%s)"'000,"seq":'$seq',"ttl_ms":'$ttl_ms'}'
}

trap 'trap "" INT TERM; beat offline; exit 0' INT TERM
while :; do
  beat online || true
  sleep 4 &
  wait $!
done
