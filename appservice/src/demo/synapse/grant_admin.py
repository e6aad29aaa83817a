"""Makes an account a server administrator.

Reads {"url", "secret", "user_id"} as JSON from standard input. Registers a throw-away administrator with the
registration secret, lets it promote the account, and deactivates it. Its password is random and kept nowhere.
On failure: one line on standard error, and exit status 1.
"""

import hashlib
import hmac
import json
import secrets
import sys
import urllib.error
import urllib.parse
import urllib.request

order = json.load(sys.stdin)
# The homeserver is on this machine: no proxy.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, path, body=None, token=None):
    request = urllib.request.Request(order["url"] + "/_synapse/admin/v1" + path, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if token is not None:
        request.add_header("Authorization", "Bearer " + token)
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


def register():
    """Synapse's shared-secret registration."""
    name, password = "setup-" + secrets.token_hex(8), secrets.token_urlsafe(32)
    nonce = call("GET", "/register")["nonce"]
    signed = "\0".join([nonce, name, password, "admin"]).encode()
    mac = hmac.new(order["secret"].encode(), signed, hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
    return call("POST", "/register", body)


def main():
    admin = register()
    token = admin["access_token"]
    try:
        user = urllib.parse.quote(order["user_id"], safe="")
        call("PUT", f"/users/{user}/admin", {"admin": True}, token)
    finally:
        itself = urllib.parse.quote(admin["user_id"], safe="")
        call("POST", f"/deactivate/{itself}", {"erase": True}, token)


try:
    main()
except urllib.error.HTTPError as refusal:
    try:
        reason = json.load(refusal).get("error")
    except ValueError:
        reason = None
    sys.exit(f"HTTP {refusal.code}: {reason or refusal.reason}")
except OSError as failure:
    sys.exit(str(failure))
