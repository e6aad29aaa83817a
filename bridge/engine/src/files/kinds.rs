//! Tests: what a file is, its bytes say.

use super::*;

fn mp4_box(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32 + 8).to_be_bytes()[..], name, content].concat()
}

fn mp4(brand: &[u8; 4], tracks: &[&[u8; 4]]) -> Vec<u8> {
    let track = |handler: &&[u8; 4]| {
        let handler = mp4_box(b"hdlr", &[&[0; 8], &handler[..], &[0; 13]].concat());
        mp4_box(b"trak", &mp4_box(b"mdia", &handler))
    };
    let tracks: Vec<u8> = tracks.iter().flat_map(track).collect();
    [mp4_box(b"ftyp", &[brand, &b"\0\0\0\0mp42"[..]].concat()), mp4_box(b"moov", &tracks)].concat()
}

/// 128 kbit/s at 44.1 kHz.
fn mp3_frame() -> Vec<u8> {
    [&[0xFF, 0xFB, 0x90, 0x00][..], &[0; 413]].concat()
}

fn ogg(codec: &[u8]) -> Vec<u8> {
    [b"OggS\0\x02", &[0; 20][..], &[1, 19], codec, &[0; 11]].concat()
}

pub(super) fn accepted() -> Vec<(&'static str, Vec<u8>, Kind)> {
    let mp3 = [mp3_frame(), mp3_frame()].concat();
    let webm = b"\x1A\x45\xDF\xA3\x9F\x42\x86\x81\x01\x42\xF7\x81\x01\x42\xF2\x81\x04\x42\xF3\x81\x08\x42\x82\x84webm";
    vec![
        ("pdf", b"%PDF-1.7\n%\xE2\xE3\xCF\xD3\n".to_vec(), Kind::Pdf),
        ("text", b"Dr. M\xC3\xBCller:\r\n\ttake 2 < 3 a day\n\x0C".to_vec(), Kind::Text),
        ("text with a byte order mark", b"\xEF\xBB\xBFHello".to_vec(), Kind::Text),
        ("a heart", b"<3 thank you".to_vec(), Kind::Text),
        ("an address", b"Write to Ann <scripts@example.org>".to_vec(), Kind::Text),
        ("a program's name", b"MZ is no program yet".to_vec(), Kind::Text),
        ("mp3", mp3.clone(), Kind::Mp3),
        ("mp3 with a tag", [&b"ID3\x04\0\0\0\0\0\x05title\0\0"[..], &mp3].concat(), Kind::Mp3),
        ("m4a", mp4(b"M4A ", &[b"soun"]), Kind::Mp4Audio),
        ("a recorder's m4a", mp4(b"isom", &[b"soun"]), Kind::Mp4Audio),
        ("mp4", mp4(b"isom", &[b"soun", b"vide"]), Kind::Mp4),
        ("an m4a with pictures", mp4(b"M4A ", &[b"vide", b"soun"]), Kind::Mp4),
        ("mp4 without tracks", mp4(b"mp42", &[]), Kind::Mp4),
        ("opus", ogg(b"OpusHead"), Kind::Ogg),
        ("vorbis", ogg(b"\x01vorbis"), Kind::Ogg),
        ("wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0".to_vec(), Kind::Wav),
        ("webm", webm.to_vec(), Kind::Webm),
    ]
}

#[test]
fn each_kind_is_known_by_its_bytes() {
    for (name, bytes, kind) in accepted() {
        assert_eq!(kind_of(&bytes), Some(kind), "{name}");
    }
}

#[test]
fn all_else_is_no_kind() {
    let matroska = b"\x1A\x45\xDF\xA3\x93\x42\x86\x81\x01\x42\x82\x88matroska";
    let one_frame = [&mp3_frame()[..], b"and no other"].concat();
    let late_pdf = [b"hello\n", &b"%PDF-1.7\n"[..]].concat();
    let flac_with_tag = b"ID3\x04\0\0\0\0\0\x02xxfLaC\0\0\0\x22";
    let old_mac = [&b"\xFF\xFE<\0s\0c\0r\0i\0p\0t\0>\0"[..]].concat();
    let table: Vec<(&str, &[u8])> = vec![
        ("nothing", b""),
        ("elf", b"\x7FELF\x02\x01\x01\0"),
        ("windows program", b"MZ\x90\0\x03\0\0\0"),
        ("mach-o", b"\xCF\xFA\xED\xFE\x07\0\0\x01"),
        ("mach-o or java class", b"\xCA\xFE\xBA\xBE\0\0\0\x34"),
        ("wasm", b"\0asm\x01\0\0\0"),
        ("shell script", b"#!/bin/sh\nrm -r ~"),
        ("shell script after a line", b"\n\n #!/bin/sh\n"),
        ("batch", b"@ECHO off\r\n"),
        ("registry", b"Windows Registry Editor Version 5.00\r\n"),
        ("windows link", b"[InternetShortcut]\r\nURL=file://x"),
        ("desktop entry", b"[Desktop Entry]\nExec=sh"),
        ("php", b"<?php system('x');"),
        ("php in the middle", b"hello <?PHP system('x');"),
        ("javascript link", b"  JavaScript:alert(1)"),
        ("vbscript link", b"vbscript:x"),
        ("data link", b"data:text/html,<b>x"),
        ("html", b"<!DOCTYPE html><p>x"),
        ("html in capitals", b"<HTML>"),
        ("html after white space and a mark", b"\xEF\xBB\xBF \n\t<html>"),
        ("html, two marks", b"\xEF\xBB\xBF\xEF\xBB\xBF<p>"),
        ("html comment", b"<!-- x --><b>"),
        ("html without a head", b"<b onclick=x>"),
        ("script in the middle", b"hello <ScRiPt>alert(1)</script>"),
        ("script with a slash", b"hello <script/src=x>"),
        ("picture with a handler", b"hello <img src=x onerror=alert(1)>"),
        ("frame", b"hello <iframe src=x>"),
        ("svg", b"<svg xmlns='http://www.w3.org/2000/svg'>"),
        ("svg after xml", b"<?xml version='1.0'?><svg>"),
        ("xml", b"\n<?XML version='1.0'?>"),
        ("server page", b"<%= x %>"),
        ("postscript", b"%!PS-Adobe-3.0\n"),
        ("web archive", b"MIME-Version: 1.0\nContent-Type: text/html"),
        ("rtf", b"{\\rtf1\\ansi x}"),
        ("pdf after white space", b"\n%PDF-1.7\n"),
        ("pdf after text", &late_pdf),
        ("zip, docx, odt, jar", b"PK\x03\x04\x14\0\x06\0"),
        ("old office document", b"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"),
        ("gzip", b"\x1F\x8B\x08\0\0\0\0\0"),
        ("7z", b"7z\xBC\xAF\x27\x1C\0\x04"),
        ("rar", b"Rar!\x1A\x07\x01\0"),
        ("xz", b"\xFD7zXZ\0\0\x04"),
        ("bzip2", b"BZh91AY&SY\x80\xFF"),
        ("zstd", b"\x28\xB5\x2F\xFD\x04\0"),
        ("tar", b"a.txt\0\0\0\0ustar\x0000"),
        ("text with a nul", b"hello\0"),
        ("text with an escape", b"hello \x1B[2J"),
        ("text with a delete", b"hello\x7F"),
        ("text with a control of Latin-1", b"hello\xC2\x9Bx"),
        ("latin-1", b"M\xFCller"),
        ("utf-16", &old_mac),
        ("tiff", b"II\x2A\0\x08\0\0\0"),
        ("bmp", b"BM\x3A\0\0\0\0\0"),
        ("ico", b"\0\0\x01\0\x01\0"),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"),
        ("quicktime", b"\0\0\0\x14ftypqt  \0\0\0\0qt  "),
        ("mp4, first box too long", b"\0\0\x10\x18ftypisom\0\0\0\0isommp42"),
        ("matroska", matroska),
        ("avi", b"RIFF\x24\0\0\0AVI LIST"),
        ("webp without a picture", b"RIFF\x04\0\0\0WEBP"),
        ("flash", b"CWS\x0A\0\0\0\0"),
        ("flac", b"fLaC\0\0\0\x22"),
        ("flac behind an mp3's tag", flac_with_tag),
        ("aac", b"\xFF\xF1\x50\x80\x02\x1F\xFC"),
        ("one mp3 frame", &one_frame),
        ("an mp3's tag alone", b"ID3\x04\0\0\0\0\0\x05title"),
        ("ogg with moving pictures", b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x2A\x80theora"),
        ("jpeg's beginning alone", b"\xFF\xD8\xFF"),
        ("jpeg's beginning and text", b"\xFF\xD8\xFF<script>"),
        ("png's beginning and text", b"\x89PNG\r\n\x1A\n<script>"),
        ("gif of no version", b"GIF88a\x01\0\x01\0"),
        ("a picture behind something", b"\0\xFF\xD8\xFF\xE0\0\x10JFIF\0"),
        ("eicar behind a program", b"MZX5O!P%@AP\x00"),
    ];
    for (name, bytes) in table {
        assert_eq!(kind_of(bytes), None, "{name}");
    }
}

#[test]
fn mimetypes_are_read_and_written() {
    for kind in Kind::ALL {
        assert_eq!(kind.mimetype().parse(), Ok(kind));
        assert_eq!(kind.mimetype().to_uppercase().parse(), Ok(kind));
        assert_eq!(kind.is_image(), kind.mimetype().starts_with("image/"), "{kind:?}");
    }
    for wrong in ["", "image", "image/svg+xml", "text/html", "image/jpeg; q=1", "*/*"] {
        let sentence = wrong.parse::<Kind>().unwrap_err().to_string();
        assert!(sentence.contains("image/jpeg, image/png"), "{sentence}");
    }
}
