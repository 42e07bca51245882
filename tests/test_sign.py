#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The signatures of the guest's binaries, read and recomputed without osslsigncode. tests/test_sign.py

From the bytes alone: both signatures (SHA-1, and SHA-256 nested in it), the image's digest, every page's digest, the attributes, and the
RSA signature (by openssl) with the certificate that goes to the guest. Then one byte is changed, everywhere it matters; then the same
file is signed again. osslsigncode's own verification is asked, too, as a second opinion."""
import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from report import Report  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("VMKD_BUILD", ROOT / "build")).resolve()
MEDIUM = BUILD / "guest" / "medium"
NAMES = ["x64/kdvmkd.dll", "x64/vmkd.sys", "x86/kdvmkd.dll", "x86/vmkd.sys"]
PAGE = 4096
CERT_TYPE = (0x0200, 2)  # revision 2, PKCS#7 SignedData: PE format specification
# Object identifiers: Microsoft's Authenticode specification, PKCS #9, and SpcPeImagePageHashes V1 and V2.
INDIRECT_DATA, NESTED = "1.3.6.1.4.1.311.2.1.4", "1.3.6.1.4.1.311.2.4.1"
PAGE_HASHES = {"sha1": "1.3.6.1.4.1.311.2.3.1", "sha256": "1.3.6.1.4.1.311.2.3.2"}
DIGESTS = {"1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.1": "sha256"}
MESSAGE_DIGEST, SIGNING_TIME, EXTENDED_KEY_USAGE = "1.2.840.113549.1.9.4", "1.2.840.113549.1.9.5", "2.5.29.37"
CODE_SIGNING, BASIC_CONSTRAINTS = "1.3.6.1.5.5.7.3.3", "2.5.29.19"


class Bad(Exception):
    """What is wrong with a file."""


class Der:
    """One DER value: tag, content, and with its header (whole)."""

    def __init__(self, data):
        try:
            self.tag, length, start = data[0], data[1], 2
            if length & 0x80:
                count = length & 0x7F
                length, start = int.from_bytes(data[2:2 + count], "big"), 2 + count
        except IndexError:
            raise Bad("DER ends early") from None
        if start + length > len(data):
            raise Bad("DER value is longer than what holds it")
        self.content, self.whole = data[start:start + length], data[:start + length]

    def items(self):
        result, rest = [], self.content
        while rest:
            result.append(Der(rest))
            rest = rest[len(result[-1].whole):]
        return result

    def __getitem__(self, index):
        items = self.items()
        if index >= len(items):
            raise Bad("a DER sequence is too short")
        return items[index]

    def oid(self):
        if self.tag != 6 or not self.content or self.content[-1] & 0x80:
            raise Bad("no object identifier where one belongs")
        numbers, value = [], 0
        for byte in self.content:
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                numbers.append(value)
                value = 0
        first = min(numbers[0] // 40, 2)
        return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))


class Pe:
    """The places that Authenticode needs."""

    def __init__(self, data):
        self.data = data
        try:
            pe = struct.unpack_from("<I", data, 0x3C)[0]
            sections, = struct.unpack_from("<H", data, pe + 6)
            optional_size, = struct.unpack_from("<H", data, pe + 20)
            magic, = struct.unpack_from("<H", data, pe + 24)
            self.checksum_at = pe + 24 + 64
            self.security_at = pe + 24 + (112 if magic == 0x20B else 96) + 4 * 8
            self.header_size, = struct.unpack_from("<I", data, pe + 24 + 60)
            self.signature_at, self.signature_size = struct.unpack_from("<II", data, self.security_at)
            table = pe + 24 + optional_size
            self.sections = [struct.unpack_from("<II", data, table + 40 * i + 16) for i in range(sections)]  # raw size, raw offset
        except struct.error:
            raise Bad("not a PE file") from None
        if data[pe:pe + 4] != b"PE\0\0":
            raise Bad("not a PE file")

    def header(self):
        """The headers without the fields that signing changes."""
        return self.data[:self.checksum_at] + self.data[self.checksum_at + 4:self.security_at] + self.data[self.security_at + 8:self.header_size]

    def digest(self, algorithm):
        return hashlib.new(algorithm, self.header() + self.data[self.header_size:self.signature_at]).digest()

    def pages(self, algorithm):
        """{file offset: digest} of headers and sections, page by page, each filled up with zeros; the end of the last one has no digest."""
        size = hashlib.new(algorithm).digest_size
        result = {0: hashlib.new(algorithm, self.header() + bytes(PAGE - self.header_size)).digest()}
        end = 0
        for raw_size, offset in self.sections:
            for at in range(offset, offset + raw_size, PAGE):
                piece = self.data[at:min(at + PAGE, offset + raw_size)]
                result[at] = hashlib.new(algorithm, piece + bytes(PAGE - len(piece))).digest()
            end = max(end, offset + raw_size)
        result[end] = bytes(size)
        return result

    def checksum(self):
        data = self.data[:self.checksum_at] + bytes(4) + self.data[self.checksum_at + 4:]
        total = sum(struct.unpack(f"<{len(data) // 2}H", data[:len(data) // 2 * 2])) + (data[-1] if len(data) % 2 else 0)
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total + len(data)


def expect(condition, what):
    if not condition:
        raise Bad(what)


def openssl(*args, stdin=None):
    result = subprocess.run(["openssl", *args], input=stdin, capture_output=True, check=False)
    expect(result.returncode == 0, f"openssl {args[0]}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def attributes_of(der):
    return {attribute[0].oid(): attribute[1][0] for attribute in der.items()}


def page_list(data, algorithm):
    """SpcPeImageData -> {offset: digest}: the page hashes are a serialized object in the link to the "file"."""
    serialized = data[1][0]            # [0] SpcLink, in it [1] SpcSerializedObject: class and bytes
    entry = Der(serialized[1].content)[0]
    expect(entry[0].oid() == PAGE_HASHES[algorithm], f"page hashes are of {entry[0].oid()}")
    blob, step = entry[1][0].content, 4 + hashlib.new(algorithm).digest_size
    expect(len(blob) % step == 0, "the list of page hashes has a strange length")
    return {struct.unpack_from("<I", blob, i)[0]: blob[i + 4:i + step] for i in range(0, len(blob), step)}


def verify_signature(pe, content_info, cert, algorithm):
    """One SignedData. -> its unauthenticated attributes. Raises Bad."""
    signed = content_info[1][0]
    indirect = signed[2]
    expect(indirect[0].oid() == INDIRECT_DATA, "does not sign SpcIndirectData")
    data = indirect[1][0]              # SpcIndirectDataContent: what it is, and its digest
    info = data[1]
    expect(DIGESTS.get(info[0][0].oid()) == algorithm, f"expected {algorithm}")
    expect(info[1].content == pe.digest(algorithm), f"{algorithm} of the image differs")
    expect(page_list(data[0][1], algorithm) == pe.pages(algorithm), f"{algorithm} of the pages differ")
    certificates = next((item for item in signed.items() if item.tag == 0xA0), None)
    expect(certificates and [c.whole for c in certificates.items()] == [cert], "the certificate is not vmkd-test.cer")
    signer = signed.items()[-1][0].items()
    authenticated = next((item for item in signer if item.tag == 0xA0), None)
    expect(authenticated is not None, "no authenticated attributes")
    attributes = attributes_of(authenticated)
    expect({MESSAGE_DIGEST, SIGNING_TIME} <= set(attributes), "messageDigest or signingTime is missing")
    expect(attributes[MESSAGE_DIGEST].content == hashlib.new(algorithm, data.content).digest(), "messageDigest differs")
    value = next((item.content for item in signer if item.tag == 4), b"")
    verify_rsa(b"\x31" + authenticated.whole[1:], value, cert, algorithm)  # signed as a SET, carried as [0]
    not_before = Der(cert)[0].items()[4][0]
    expect(attributes[SIGNING_TIME].content == not_before.content, "the signing time is not the certificate's first second")
    unauthenticated = next((item for item in signer if item.tag == 0xA1), None)
    return attributes_of(unauthenticated) if unauthenticated else {}


def verify_rsa(message, signature, cert, algorithm):
    with tempfile.TemporaryDirectory() as folder:
        key, sig = Path(folder, "key"), Path(folder, "sig")
        key.write_bytes(openssl("x509", "-inform", "DER", "-noout", "-pubkey", stdin=cert))
        sig.write_bytes(signature)
        openssl("dgst", f"-{algorithm}", "-verify", str(key), "-signature", str(sig), stdin=message)


def verify(data, cert):
    """Raises Bad unless both signatures of the file are right."""
    pe = Pe(data)
    expect(pe.signature_at, "not signed")
    expect(pe.signature_at % 8 == 0 and pe.signature_at + pe.signature_size == len(data), "the signature is not the aligned end of the file")
    length, revision, kind = struct.unpack_from("<IHH", data, pe.signature_at)
    expect((revision, kind) == CERT_TYPE and length == pe.signature_size, "no PKCS#7 certificate entry")
    expect(struct.unpack_from("<I", data, pe.checksum_at)[0] == pe.checksum(), "the PE checksum is wrong")
    table = data[pe.signature_at + 8:]
    outer = Der(table)
    expect(not table[len(outer.whole):].strip(b"\0"), "something behind the signature")
    nested = verify_signature(pe, outer, cert, "sha1").get(NESTED)
    expect(nested is not None, "no SHA-256 signature is nested")
    verify_signature(pe, nested, cert, "sha256")


def is_bad(data, cert):
    try:
        verify(data, cert)
    except Bad:
        return True
    return False


def second_opinion(data, pem):
    """What osslsigncode says."""
    with tempfile.NamedTemporaryFile(suffix=".sys") as f:
        f.write(data)
        f.flush()
        result = subprocess.run(["osslsigncode", "verify", "-CAfile", str(pem), f.name], capture_output=True, text=True, check=False)
    return result.returncode == 0 and result.stdout.count("Signature verification: ok") == 2


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def with_checksum(data):
    """The file with its PE checksum set right, so that it is not the checksum that gives a change away."""
    pe = Pe(data)
    return data[:pe.checksum_at] + struct.pack("<I", pe.checksum()) + data[pe.checksum_at + 4:]


# ---- The tests --------------------------------------------------------------------------------------------------------

def check_file(report, name, cert, pem):
    data, unsigned = (MEDIUM / name).read_bytes(), (BUILD / "guest" / name).read_bytes()
    try:
        verify(data, cert)
        wrong = ""
    except Bad as bad:
        wrong = str(bad)
    report.check(f"{name}: two signatures, digests and page hashes are right", not wrong, wrong)
    report.check(f"{name}: osslsigncode agrees", second_opinion(data, pem))
    pe, bare = Pe(data), Pe(unsigned)
    same = pe.header() == bare.header() and data[pe.header_size:len(unsigned)] == unsigned[bare.header_size:]
    report.check(f"{name}: what was built is what is signed", same and not data[len(unsigned):pe.signature_at].strip(b"\0"))
    check_changes(report, name, data, cert, pem)


def check_changes(report, name, data, cert, pem):
    """One byte changed: in the headers, at both ends of each section, on each page, and in the signature; checksum right again."""
    pe = Pe(data)
    places = {0x40, pe.checksum_at - 80, pe.checksum_at - 1, pe.security_at + 8}
    for size, offset in pe.sections:
        places |= {offset, offset + size - 1} | set(range(offset + 1, offset + size, PAGE))
    unseen = [hex(at) for at in sorted(places) if not is_bad(with_checksum(flipped(data, at)), cert)]
    report.check(f"{name}: a changed byte is seen, at {len(places)} places", not unseen, f"not at {unseen}")
    report.check(f"{name}: a changed byte makes both signatures bad, by each algorithm alone", changes_by_algorithm(pe))
    middle = pe.sections[0][1] + 100
    report.check(f"{name}: osslsigncode sees a changed byte, too", not second_opinion(with_checksum(flipped(data, middle)), pem))
    signature = range(pe.signature_at + 8, pe.signature_at + 8 + len(Der(data[pe.signature_at + 8:]).whole), 97)
    unseen = [hex(at) for at in signature if not is_bad(with_checksum(flipped(data, at)), cert)]
    # Some bytes of a signature bind nothing: the texts <<<Obsolete>>>, NULL parameters, the issuer beside the certificate.
    report.check(f"{name}: nearly every changed byte of the signature is seen", len(unseen) < len(signature) / 5, f"{len(unseen)} of {len(signature)}: {unseen}")
    report.check(f"{name}: a changed checksum is seen", is_bad(flipped(data, pe.checksum_at), cert))
    report.check(f"{name}: bytes behind the signature are seen", is_bad(data + bytes(8), cert))


def changes_by_algorithm(pe):
    at = pe.sections[0][1] + 100
    other = Pe(flipped(pe.data, at))
    return all(pe.digest(a) != other.digest(a) and sum(pe.pages(a)[p] != other.pages(a)[p] for p in pe.pages(a)) == 1 for a in ("sha1", "sha256"))


def sign(*args):
    return subprocess.run([ROOT / "tools" / "sign-guest", *map(str, args)], capture_output=True, text=True, check=False)


def check_tool(report, scratch, pair):
    """The same bytes again; another key; what it refuses."""
    source, out = BUILD / "guest" / "x64" / "vmkd.sys", scratch / "out.sys"
    result = sign("--key", pair / "vmkd-test.key", "--cert", pair / "vmkd-test.pem", source, out)
    again = out.read_bytes() if result.returncode == 0 else b""
    report.check("the same file and key give the same bytes", again == (MEDIUM / "x64/vmkd.sys").read_bytes(), result.stderr)
    sign("--make", scratch / "pair")
    other = scratch / "pair"
    before = (other / "vmkd-test.key").read_bytes()
    sign("--make", other)
    report.check("a throw-away pair is made once", (other / "vmkd-test.key").read_bytes() == before and {p.name for p in other.iterdir()} ==
                 {"vmkd-test.key", "vmkd-test.pem", "vmkd-test.cer", "vmkd-test.id"})
    report.check("nobody else may read its key", (other / "vmkd-test.key").stat().st_mode & 0o077 == 0)
    result = sign("--key", other / "vmkd-test.key", "--cert", other / "vmkd-test.pem", source, out)
    cert = (other / "vmkd-test.cer").read_bytes()
    report.check("another key signs another signature, right with its own certificate alone",
                 not is_bad(out.read_bytes(), cert) and is_bad(out.read_bytes(), (MEDIUM / "vmkd-test.cer").read_bytes()), result.stderr)
    check_refusals(report, scratch, other, source)


def check_refusals(report, scratch, pair, source):
    text, out = scratch / "text", scratch / "none"
    text.write_text("no PE file\n")
    key, cert = ("--key", pair / "vmkd-test.key"), ("--cert", pair / "vmkd-test.pem")
    strange = scratch / "strange"
    sign("--make", strange)
    for what, args in (("a key without its certificate", (*key, source, out)), ("no output", (*key, *cert, source)),
                       ("what is no PE file", (*key, *cert, text, out)), ("a file that is not there", (*key, *cert, scratch / "gone", out)),
                       ("a key that is not the certificate's", ("--key", strange / "vmkd-test.key", *cert, source, out)),
                       ("a certificate that is none", (*key, "--cert", text, source, out)), ("an unknown option", ("--sha3", source, out))):
        result = sign(*args)
        report.check(f"refused: {what}", result.returncode != 0 and result.stderr.startswith("sign-guest: ") and not out.exists(),
                     f"status {result.returncode}: {result.stderr}")


def check_certificate(report, cert, pem):
    extensions = {}
    for extension in Der(cert)[0].items()[-1][0].items():
        extensions[extension[0].oid()] = Der(extension.items()[-1].content)
    usage = [item.oid() for item in extensions[EXTENDED_KEY_USAGE].items()]
    report.check("the certificate vouches for signed code and for nothing else", usage == [CODE_SIGNING] and not extensions[BASIC_CONSTRAINTS].items(), f"{usage}")
    report.check("vmkd-test.id is the certificate's SHA-1", (MEDIUM / "vmkd-test.id").read_bytes() == hashlib.sha1(cert).hexdigest().encode() + b"\r\n")
    report.check("vmkd-test.cer is the certificate that signed", openssl("x509", "-in", str(pem), "-outform", "DER") == cert)


def check_image(report, scratch):
    """vmkd-guest.iso: what is in it, and the same bytes when it is made again."""
    image, out = BUILD / "vmkd-guest.iso", scratch / "iso"
    for way, options in (("Rock Ridge", []), ("Joliet", ["-read_fs", "norock"])):
        target = out / way.replace(" ", "")
        target.parent.mkdir(exist_ok=True)
        subprocess.run(["xorriso", *options, "-osirrox", "on", "-indev", image, "-extract", "/", target], check=True, capture_output=True)
        staged = {str(p.relative_to(MEDIUM)): p.read_bytes() for p in MEDIUM.rglob("*") if p.is_file()}
        found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
        report.check(f"the image holds what was staged, by {way}", found == staged and set(NAMES) < set(found), f"{set(found) ^ set(staged)}")
    texts = [p for p in MEDIUM.iterdir() if p.suffix in (".cmd", ".txt")]
    wrong = [p.name for p in texts if re.search(rb"[^\r]\n|\r[^\n]|[^\x00-\x7f]|\t\r", p.read_bytes())]
    report.check("scripts and README have Windows' line ends and are ASCII", len(texts) == 4 and not wrong, f"{wrong}")
    make = ["make", "--no-print-directory", f"O={BUILD}", str(image)]
    subprocess.run(make, cwd=ROOT, capture_output=True, check=False)  # sources may be newer than the build
    before = image.read_bytes()
    made = subprocess.run([*make, "-W", str(MEDIUM / "README.txt")], cwd=ROOT, capture_output=True, text=True, check=False)
    report.check("made again it is the same image", "ISO" in made.stdout and image.read_bytes() == before, made.stdout + made.stderr)


def main():
    report = Report()
    for name in NAMES:
        if not (MEDIUM / name).exists():
            report.fail(name, f"{MEDIUM / name} is missing; build with make guest-iso")
            report.exit()
    pair = BUILD / "signing"
    pem, cert = pair / "vmkd-test.pem", (MEDIUM / "vmkd-test.cer").read_bytes()
    check_certificate(report, cert, pem)
    for name in NAMES:
        check_file(report, name, cert, pem)
    with tempfile.TemporaryDirectory() as scratch:
        check_tool(report, Path(scratch), pair)
        check_image(report, Path(scratch))
    report.exit()


if __name__ == "__main__":
    main()
