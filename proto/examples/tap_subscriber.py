"""Shows what a tenant is answered, as it comes: one line for each event of the tap in its JSON form.

    tap_subscriber.py HOST:PORT USER PASSWORD SUBJECT [ANSWERS]

SUBJECT is vl.ev.TENANT.> or narrower. Ends after so many complete answers, or never. Needs nothing but Python; a real
program would use a client library, with TLS.
"""

from __future__ import annotations

import json
import socket
import sys


def listen(address: str, user: str, password: str, subject: str, answers: int | None) -> int:
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as connection, connection.makefile("rwb") as stream:
        stream.readline()  # What the server says of itself.
        options = {"user": user, "pass": password, "verbose": False, "pedantic": False, "lang": "python", "version": "1"}
        stream.write(f"CONNECT {json.dumps(options)}\r\nSUB {subject} 1\r\nPING\r\n".encode())
        stream.flush()
        while line := stream.readline():
            word, _, rest = line.decode().strip().partition(" ")
            if word == "PING":
                stream.write(b"PONG\r\n")
                stream.flush()
            elif word == "PONG":
                print(f"listening on {subject}", flush=True)
            elif word == "-ERR":
                print(rest, file=sys.stderr)
                return 1
            elif word == "MSG":
                event = json.loads(stream.read(int(rest.split()[-1])))
                stream.readline()
                if event["version"] != 1:
                    print(f"version {event['version']} of the event is not known", file=sys.stderr)
                    return 1
                print(json.dumps(event), flush=True)
                if event["finish"] is not None and answers is not None:
                    answers -= 1
                    if answers == 0:
                        return 0
    print("the server has closed the connection", file=sys.stderr)
    return 1


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6):
        sys.exit(__doc__)
    sys.exit(listen(*sys.argv[1:5], int(sys.argv[5]) if len(sys.argv) == 6 else None))
