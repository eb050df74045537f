<?php

$secret = getenv('WEBHOOK_SECRET');
$body = file_get_contents('php://input'); // the raw bytes, before any parsing
$signature = $_SERVER['HTTP_X_WEBHOOK_SIGNATURE'] ?? '';

if (!hash_equals(hash_hmac('sha256', $body, $secret), $signature)) {
    http_response_code(401);
    exit;
}

$event = json_decode($body, true);
// Store it by HTTP_WEBHOOK_ID, which is the same in every attempt. Work on it afterwards.
error_log($_SERVER['HTTP_X_WEBHOOK_EVENT'] . ' ' . $event['id']);
http_response_code(204);
